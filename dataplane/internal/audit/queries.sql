-- name: RecordActivity :exec
INSERT INTO ledger.activity_logs (user_id, user_display, on_behalf, company_id, entity_type, entity_id, action, old_values, new_values, ip_address, request_id)
VALUES (@user_id, @user_display, @on_behalf, @company_id, @entity_type, @entity_id, @action, @old_values, @new_values, @ip_address, @request_id);

-- name: RecordSecurity :exec
INSERT INTO ledger.security_logs (user_id, user_display, action, metadata, ip_address, request_id)
VALUES (@user_id, @user_display, @action, @metadata, @ip_address, @request_id);
