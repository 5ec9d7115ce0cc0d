-- Departments, job titles, positions, locations.
SELECT;
