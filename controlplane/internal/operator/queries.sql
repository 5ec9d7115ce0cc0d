-- name: InsertOperator :exec
INSERT INTO control.operators (id, email, full_name, role, password_hash)
VALUES (@id, @email, @full_name, @role, @password_hash);

-- name: CountOwners :one
SELECT count(*) FROM control.operators WHERE role = 'owner' AND is_active;

-- The attempt is counted before the password is compared, in one statement, so
-- that no more guesses than allowed are compared however many arrive at once.
-- name: BeginLogin :one
UPDATE control.operators
SET failed_logins = CASE WHEN locked_until <= now() THEN 1 ELSE failed_logins + 1 END,
    locked_until  = CASE
        WHEN (CASE WHEN locked_until <= now() THEN 1 ELSE failed_logins + 1 END) >= @max_failures::int
        THEN now() + make_interval(mins => @lock_minutes::int) END
WHERE email = @email AND is_active AND (locked_until IS NULL OR locked_until <= now())
RETURNING id, email, full_name, role, password_hash;

-- name: CompleteLogin :exec
UPDATE control.operators
SET failed_logins = 0, locked_until = NULL, last_login_at = now(), updated_at = now(),
    password_hash = COALESCE(sqlc.narg(new_hash), password_hash)
WHERE id = @id;

-- name: InsertSession :exec
INSERT INTO control.operator_sessions (id, operator_id, access_hash, access_expires_at, refresh_hash, expires_at, user_agent, ip_address)
VALUES (@id, @operator_id, @access_hash, @access_expires_at, @refresh_hash, @expires_at, @user_agent, @ip_address);

-- name: FindSession :one
SELECT s.id, s.operator_id, s.access_expires_at, s.expires_at, s.authenticated_at, o.email, o.full_name, o.role
FROM control.operator_sessions s
JOIN control.operators o ON o.id = s.operator_id
WHERE s.access_hash = @access_hash AND s.access_expires_at > now() AND s.expires_at > now()
  AND s.revoked_at IS NULL AND o.is_active;

-- name: ExtendSession :exec
UPDATE control.operator_sessions
SET access_expires_at = LEAST(@access_expires_at::timestamptz, expires_at)
WHERE id = @id;

-- name: RotateSession :one
UPDATE control.operator_sessions s
SET access_hash = @access_hash, refresh_hash = @new_refresh_hash,
    access_expires_at = LEAST(@access_expires_at::timestamptz, s.expires_at)
FROM control.operators o
WHERE s.refresh_hash = @refresh_hash AND s.revoked_at IS NULL AND s.expires_at > now()
  AND o.id = s.operator_id AND o.is_active
RETURNING s.id, s.access_expires_at, s.expires_at;

-- name: RevokeSession :execrows
UPDATE control.operator_sessions SET revoked_at = now() WHERE id = @id AND revoked_at IS NULL;

-- name: DeleteEndedSessions :execrows
DELETE FROM control.operator_sessions WHERE expires_at < now() - interval '30 days';

-- name: ListOperators :many
SELECT id, email, full_name, role, is_active, last_login_at, created_at
FROM control.operators ORDER BY email;
