-- Limits of a plan, carried in the route.
SELECT;
