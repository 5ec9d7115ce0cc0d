-- name: InsertEvent :exec
INSERT INTO control.events (id, type, tenant_id, payload)
VALUES (@id, @type, @tenant_id, @payload);
