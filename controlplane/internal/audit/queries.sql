-- name: InsertEntry :exec
INSERT INTO control.audit_log (actor_kind, actor_id, actor_name, action, entity_type, entity_id, tenant_id, detail, ip_address, request_id)
VALUES (@actor_kind, @actor_id, @actor_name, @action, @entity_type, @entity_id, @tenant_id, @detail, @ip_address, @request_id);
