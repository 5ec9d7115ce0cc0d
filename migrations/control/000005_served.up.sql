-- Which tenants a node has served last, for the sweep of outboxes.
SELECT;
