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

-- What was counted of a login that stops half way, for want of a code.
-- name: ReturnAttempt :exec
UPDATE control.operators
SET failed_logins = GREATEST(failed_logins - 1, 0),
    locked_until  = CASE WHEN failed_logins - 1 >= @max_failures::int THEN locked_until END
WHERE id = @id;

-- name: InsertSession :exec
INSERT INTO control.operator_sessions (id, operator_id, access_hash, access_expires_at, refresh_hash, expires_at, second_factor_at, user_agent, ip_address)
VALUES (@id, @operator_id, @access_hash, @access_expires_at, @refresh_hash, @expires_at, CASE WHEN @second_factor::boolean THEN now() END, @user_agent, @ip_address);

-- name: RenewAuthentication :execrows
UPDATE control.operator_sessions
SET authenticated_at = now(), second_factor_at = CASE WHEN @second_factor::boolean THEN now() ELSE second_factor_at END
WHERE id = @id AND revoked_at IS NULL;

-- name: NoteSecondFactor :exec
UPDATE control.operator_sessions SET second_factor_at = now() WHERE id = @id;

-- name: FindSession :one
SELECT s.id, s.operator_id, s.access_expires_at, s.expires_at, s.authenticated_at, s.second_factor_at, o.email, o.full_name, o.role
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

-- name: EndSessions :execrows
UPDATE control.operator_sessions SET revoked_at = now()
WHERE operator_id = @operator_id AND id <> @but AND revoked_at IS NULL;

-- name: DeleteEndedSessions :execrows
DELETE FROM control.operator_sessions WHERE expires_at < now() - interval '30 days';

-- name: ListOperators :many
SELECT id, email, full_name, role, is_active, last_login_at, created_at
FROM control.operators ORDER BY email;

-- name: LockOperator :one
SELECT id, email, full_name, role, is_active, last_login_at, created_at
FROM control.operators WHERE id = @id FOR UPDATE;

-- The rows of all who could be the last one, always in the same order: of two
-- owners who take each other's role away at once, one waits and then sees it.
-- name: LockActiveOwners :many
SELECT id FROM control.operators WHERE role = 'owner' AND is_active ORDER BY id FOR UPDATE;

-- name: ChangeOperator :exec
UPDATE control.operators SET role = @role, full_name = @full_name, is_active = @is_active, updated_at = now() WHERE id = @id;

-- name: SetPassword :execrows
UPDATE control.operators
SET password_hash = @password_hash, failed_logins = 0, locked_until = NULL, updated_at = now()
WHERE id = @id AND is_active;

-- name: LockFactor :one
SELECT secret, confirmed_at FROM control.operator_factors WHERE operator_id = @operator_id FOR UPDATE;

-- name: HasFactor :one
SELECT EXISTS (SELECT FROM control.operator_factors WHERE operator_id = @operator_id AND confirmed_at IS NOT NULL);

-- No row: one that counts is there already.
-- name: PutFactor :execrows
INSERT INTO control.operator_factors AS f (operator_id, secret) VALUES (@operator_id, @secret)
ON CONFLICT (operator_id) DO UPDATE SET secret = EXCLUDED.secret, created_at = now() WHERE f.confirmed_at IS NULL;

-- name: AdvanceFactor :execrows
UPDATE control.operator_factors
SET last_step = @step, confirmed_at = COALESCE(confirmed_at, now())
WHERE operator_id = @operator_id AND last_step < @step;

-- name: DropFactor :execrows
DELETE FROM control.operator_factors WHERE operator_id = @operator_id;

-- name: DropBackupCodes :exec
DELETE FROM control.operator_backup_codes WHERE operator_id = @operator_id;

-- name: AddBackupCodes :exec
INSERT INTO control.operator_backup_codes (operator_id, code_hash)
SELECT @operator_id::uuid, unnest(@code_hashes::bytea[]);

-- name: UseBackupCode :execrows
DELETE FROM control.operator_backup_codes WHERE operator_id = @operator_id AND code_hash = @code_hash;

-- name: ReplaceInvitation :exec
UPDATE control.operator_invitations SET revoked_at = now()
WHERE email = @email AND accepted_at IS NULL AND revoked_at IS NULL;

-- name: InsertInvitation :one
INSERT INTO control.operator_invitations (id, email, full_name, role, token_hash, invited_by, expires_at)
SELECT @id::uuid, @email::text, @full_name::text, @role::text, @token_hash::bytea, @invited_by::uuid, now() + make_interval(days => @days::int)
WHERE NOT EXISTS (SELECT FROM control.operators o WHERE o.email = @email)
RETURNING created_at, expires_at;

-- Who invited must still be one who may.
-- name: FindInvitation :one
SELECT i.id, i.email, i.full_name, i.role
FROM control.operator_invitations i
JOIN control.operators o ON o.id = i.invited_by AND o.is_active AND o.role = 'owner'
WHERE i.token_hash = @token_hash AND i.accepted_at IS NULL AND i.revoked_at IS NULL AND i.expires_at > now();

-- name: AcceptInvitation :execrows
UPDATE control.operator_invitations i SET accepted_at = now()
FROM control.operators o
WHERE i.id = @id AND i.accepted_at IS NULL AND i.revoked_at IS NULL AND i.expires_at > now()
  AND o.id = i.invited_by AND o.is_active AND o.role = 'owner';

-- name: RevokeInvitation :one
UPDATE control.operator_invitations SET revoked_at = now()
WHERE id = @id AND accepted_at IS NULL AND revoked_at IS NULL
RETURNING email;

-- name: ListInvitations :many
SELECT i.id, i.email, i.full_name, i.role, o.email AS invited_by, i.created_at, i.expires_at
FROM control.operator_invitations i
JOIN control.operators o ON o.id = i.invited_by
WHERE i.accepted_at IS NULL AND i.revoked_at IS NULL AND i.expires_at > now()
ORDER BY i.created_at DESC, i.id;

-- name: InvitationRecipient :one
SELECT email, role, token_hash FROM control.operator_invitations
WHERE id = @id AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > now();

-- name: LockActive :one
SELECT id FROM control.operators WHERE email = @email AND is_active FOR UPDATE;

-- Three links an hour, under the lock of the account: nobody's mailbox is filled
-- from the open form.
-- name: InsertPasswordReset :execrows
INSERT INTO control.operator_password_resets (id, operator_id, token_hash, expires_at)
SELECT @id::uuid, @operator_id::uuid, @token_hash::bytea, now() + interval '1 hour'
WHERE (SELECT count(*) FROM control.operator_password_resets r
       WHERE r.operator_id = @operator_id AND r.created_at > now() - interval '1 hour') < 3;

-- name: FindPasswordReset :one
SELECT r.id, r.operator_id, o.email
FROM control.operator_password_resets r
JOIN control.operators o ON o.id = r.operator_id AND o.is_active
WHERE r.token_hash = @token_hash AND r.used_at IS NULL AND r.expires_at > now();

-- name: UsePasswordReset :execrows
UPDATE control.operator_password_resets SET used_at = now()
WHERE id = @id AND used_at IS NULL AND expires_at > now();

-- name: VoidPasswordResets :exec
UPDATE control.operator_password_resets SET used_at = now() WHERE operator_id = @operator_id AND used_at IS NULL;

-- name: PasswordResetRecipient :one
SELECT o.email, r.token_hash FROM control.operator_password_resets r
JOIN control.operators o ON o.id = r.operator_id AND o.is_active
WHERE r.id = @id AND r.used_at IS NULL AND r.expires_at > now();

-- name: DeleteOldLinks :exec
WITH resets AS (DELETE FROM control.operator_password_resets r WHERE r.created_at < now() - interval '30 days')
DELETE FROM control.operator_invitations i WHERE i.created_at < now() - interval '90 days';

-- name: InsertAPIKey :one
INSERT INTO control.operator_api_keys (id, operator_id, name, prefix, token_hash, scopes, expires_at)
VALUES (@id, @operator_id, @name, @prefix, @token_hash, @scopes, @expires_at)
RETURNING created_at;

-- name: FindAPIKey :one
SELECT k.id, k.name, k.scopes, k.last_used_at, k.operator_id, o.email, o.full_name, o.role
FROM control.operator_api_keys k
JOIN control.operators o ON o.id = k.operator_id
WHERE k.token_hash = @token_hash AND k.revoked_at IS NULL AND k.expires_at > now() AND o.is_active;

-- name: NoteAPIKeyUse :exec
UPDATE control.operator_api_keys SET last_used_at = now() WHERE id = @id;

-- name: ListAPIKeys :many
SELECT k.id, k.name, k.prefix, k.scopes, o.email AS operator, k.created_at, k.expires_at, k.last_used_at
FROM control.operator_api_keys k
JOIN control.operators o ON o.id = k.operator_id
WHERE k.revoked_at IS NULL AND (k.operator_id = @operator_id OR @everyones::boolean)
ORDER BY k.created_at DESC, k.id;

-- name: RevokeAPIKey :one
UPDATE control.operator_api_keys SET revoked_at = now()
WHERE id = @id AND revoked_at IS NULL AND (operator_id = @operator_id OR @everyones::boolean)
RETURNING name, prefix;

-- name: RevokeAPIKeysOf :execrows
UPDATE control.operator_api_keys SET revoked_at = now() WHERE operator_id = @operator_id AND revoked_at IS NULL;
