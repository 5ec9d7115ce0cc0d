-- Rate limits that are exact across nodes, and remembered answers.
SELECT;
