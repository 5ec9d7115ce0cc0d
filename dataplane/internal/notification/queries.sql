-- name: Add :exec
INSERT INTO public.notifications (user_id, kind, message) VALUES (@user_id, @kind, @message);

-- name: Count :one
SELECT count(*) AS total, count(*) FILTER (WHERE NOT read) AS unread FROM public.notifications WHERE user_id = @user_id;

-- name: List :many
SELECT id, kind, message, read, created_at, updated_at FROM public.notifications
WHERE user_id = @user_id AND (NOT @unread_only::boolean OR NOT read)
ORDER BY id DESC LIMIT @max_rows OFFSET @skip_rows;

-- name: MarkRead :execrows
UPDATE public.notifications
SET read = true, updated_at = CASE WHEN read THEN updated_at ELSE now() END
WHERE user_id = @user_id AND id = @id;

-- name: MarkAllRead :exec
UPDATE public.notifications SET read = true, updated_at = now() WHERE user_id = @user_id AND NOT read;

-- name: CompanyName :one
SELECT name FROM public.companies WHERE id = @id;
