package httpapi

import (
	"net/http"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

const (
	get    = http.MethodGet
	post   = http.MethodPost
	put    = http.MethodPut
	patch  = http.MethodPatch
	remove = http.MethodDelete

	ok       = http.StatusOK
	created  = http.StatusCreated
	accepted = http.StatusAccepted
	nothing  = http.StatusNoContent
)

// routes is the map of the whole surface: how, where, who may, what it answers.
// Beside it there are /jobs (the jobs page), /swagger and /openapi.json.
func (a *api) routes() { //nolint:funlen // a line per operation, and nothing else
	op(a, post, "/v1/auth/login", open, ok, "login", "Sign in", a.login)
	op(a, post, "/v1/auth/refresh", open, ok, "refresh", "Exchange a refresh token for new tokens", a.refresh)
	op(a, post, "/v1/auth/logout", signedIn, nothing, "logout", "End this session", a.logout)
	op(a, get, "/v1/auth/me", signedIn, ok, "me", "Who am I", a.me)
	op(a, post, "/v1/auth/confirm", inPerson, nothing, "confirm", "Show your credentials again: a fresh login", a.confirm)
	op(a, post, "/v1/auth/password", inPerson, nothing, "change-password", "Change your password; other sessions end", a.changePassword)
	op(a, post, "/v1/auth/password/forgot", open, accepted, "forgot-password", "Have a link mailed; the answer is the same for every address", a.forgotPassword)
	op(a, post, "/v1/auth/password/reset", open, nothing, "reset-password", "Set a new password with the token of the link", a.resetPassword)
	op(a, post, "/v1/auth/2fa", inPerson.fresh(), created, "enrol-second-factor", "Begin with a second factor", a.enrolFactor)
	op(a, post, "/v1/auth/2fa/confirm", inPerson, nothing, "confirm-second-factor", "Show its first code; logins ask for one from now on", a.confirmFactor)
	op(a, post, "/v1/auth/2fa/disable", inPerson, nothing, "disable-second-factor", "Take the second factor away", a.disableFactor)
	op(a, post, "/v1/auth/2fa/backup-codes", inPerson, ok, "renew-backup-codes", "Make new backup codes", a.renewBackupCodes)

	op(a, get, "/v1/operators", needs(operator.OperatorRead), ok, "list-operators", "List operators", a.listOperators)
	op(a, patch, "/v1/operators/{id}", needs(operator.OperatorEdit).fresh(), ok, "update-operator", "Change name or role, deactivate, activate", a.updateOperator)
	op(a, post, "/v1/operators/{id}/reset-2fa", needs(operator.OperatorEdit).fresh(), nothing, "reset-second-factor", "Take a lost second factor away", a.resetFactor)
	op(a, get, "/v1/operators/invitations", needs(operator.OperatorRead), ok, "list-invitations", "List invitations that wait", a.listInvitations)
	op(a, post, "/v1/operators/invitations", needs(operator.OperatorEdit).fresh(), created, "invite-operator", "Invite an operator by mail", a.invite)
	op(a, remove, "/v1/operators/invitations/{id}", needs(operator.OperatorEdit), nothing, "revoke-invitation", "Take an invitation back", a.revokeInvitation)
	op(a, post, "/v1/operators/invitations/accept", open, created, "accept-invitation", "Make your account with the token of the link", a.acceptInvitation)
	op(a, get, "/v1/api-keys", signedIn, ok, "list-api-keys", "List your API keys; everybody's for owners", a.listAPIKeys)
	op(a, post, "/v1/api-keys", inPerson.fresh(), created, "create-api-key", "Make an API key", a.createAPIKey)
	op(a, remove, "/v1/api-keys/{id}", signedIn, nothing, "revoke-api-key", "Revoke an API key", a.revokeAPIKey)

	op(a, post, "/v1/signups", open, created, "start-signup", "Sign up; a code comes by mail", a.startSignup)
	op(a, get, "/v1/signups/availability", open, ok, "slug-availability", "Can this slug be had?", a.slugAvailability)
	op(a, get, "/v1/signups/{id}", open, ok, "show-signup", "How far is my sign-up?", a.showSignup)
	op(a, post, "/v1/signups/{id}/verify", open, accepted, "verify-signup", "Give the code; the tenant is made", a.verifySignup)
	op(a, post, "/v1/signups/{id}/resend", open, ok, "resend-code", "Have another code mailed", a.resendCode)
	op(a, get, "/v1/signups", needs(operator.SignupRead), ok, "list-signups", "List sign-ups", a.listSignups)
	op(a, post, "/v1/signups/{id}/approve", needs(operator.SignupDecide), accepted, "approve-signup", "Approve a waiting sign-up; the tenant is made", a.approveSignup)
	op(a, post, "/v1/signups/{id}/reject", needs(operator.SignupDecide), ok, "reject-signup", "Reject a waiting sign-up", a.rejectSignup)

	op(a, get, "/v1/tenants", needs(operator.TenantRead), ok, "list-tenants", "List tenants", a.listTenants)
	op(a, post, "/v1/tenants", needs(operator.TenantCreate), accepted, "create-tenant", "Create a tenant; its owner gets a link by mail", a.createTenant)
	op(a, get, "/v1/tenants/{tenant}", needs(operator.TenantRead), ok, "show-tenant", "Show a tenant, by id or slug", a.showTenant)
	op(a, patch, "/v1/tenants/{tenant}", needs(operator.TenantEdit), ok, "update-tenant", "Change name, plan or settings", a.updateTenant)
	op(a, post, "/v1/tenants/{tenant}/suspend", needs(operator.TenantSuspend), ok, "suspend-tenant", "Stop serving a tenant", a.suspendTenant)
	op(a, post, "/v1/tenants/{tenant}/resume", needs(operator.TenantSuspend), ok, "resume-tenant", "Serve a suspended tenant again", a.resumeTenant)
	op(a, post, "/v1/tenants/{tenant}/delete", needs(operator.TenantDelete).fresh(), accepted, "delete-tenant", "Delete a tenant; it can be undeleted for a while", a.deleteTenant)
	op(a, post, "/v1/tenants/{tenant}/undelete", needs(operator.TenantDelete), accepted, "undelete-tenant", "Bring a deleted tenant back", a.undeleteTenant)
	op(a, post, "/v1/tenants/{tenant}/purge", needs(operator.TenantPurge).fresh(), accepted, "purge-tenant", "Remove a deleted tenant's data for good", a.purgeTenant)
	op(a, post, "/v1/tenants/{tenant}/sign-out-everyone", needs(operator.TenantSignOut), ok, "sign-out-everyone", "End all sessions, tokens and API keys of a tenant", a.signOutEveryone)
	op(a, post, "/v1/tenants/{tenant}/rotate", needs(operator.TenantEdit), accepted, "rotate-tenant", "Give the tenant another password of its database role, or another signing key, while it is served", a.rotateTenant)
	op(a, post, "/v1/tenants/{tenant}/retry", needs(operator.TenantCreate), accepted, "retry-tenant", "Provision a tenant again that has failed", a.retryTenant)
	op(a, post, "/v1/tenants/{tenant}/move", needs(operator.TenantMove), accepted, "move-tenant", "Move a tenant to another server while it is served", a.moveTenant)
	op(a, post, "/v1/tenants/{tenant}/support-sessions", needs(operator.SupportEnter), created, "enter-tenant", "Get a code for a support session in a tenant", a.enterSupport)
	op(a, get, "/v1/tenants/{tenant}/operations", needs(operator.OperationRead), ok, "list-tenant-operations", "List the operations of a tenant", a.listTenantOperations)
	op(a, get, "/v1/tenants/{tenant}/audit", needs(operator.AuditRead), ok, "list-tenant-audit", "What was done to a tenant", a.listTenantAudit)

	op(a, get, "/v1/tenants/{tenant}/backups", needs(operator.TenantRead), ok, "list-backups", "List the backups of a tenant", a.listBackups)
	op(a, post, "/v1/tenants/{tenant}/backup", needs(operator.TenantBackup), accepted, "backup-tenant", "Take a backup now", a.backupTenant)
	op(a, post, "/v1/tenants/{tenant}/restore", needs(operator.TenantRestore).fresh(), accepted, "restore-tenant", "Restore a backup, in place or as a new tenant", a.restoreTenant)
	op(a, post, "/v1/tenants/{tenant}/clone", needs(operator.TenantCreate), accepted, "clone-tenant", "Make a new tenant of what a tenant holds now", a.cloneTenant)
	op(a, post, "/v1/tenants/{tenant}/export", needs(operator.TenantExport), accepted, "export-tenant", "Take a backup to be downloaded", a.exportTenant)
	op(a, get, "/v1/backups/{id}/archive", needs(operator.TenantExport).fresh(), ok, "download-backup", "Download a backup as a portable archive", a.downloadBackup)
	op(a, post, importPath, needs(operator.TenantRestore).fresh(), accepted, "import-tenant", "Make a new tenant of a portable archive", a.importTenant)
	op(a, get, "/v1/tenants/{tenant}/payments", needs(operator.PaymentRead), ok, "list-payments", "List what a tenant has paid", a.listPayments)
	op(a, post, "/v1/tenants/{tenant}/payments", needs(operator.PaymentEdit), created, "record-payment", "Record a payment; it extends what is paid", a.recordPayment)
	op(a, get, "/v1/tenants/{tenant}/usage", needs(operator.UsageRead), ok, "tenant-usage", "What a tenant uses", a.tenantUsage)

	op(a, get, "/v1/tenants/{tenant}/domains", needs(operator.DomainRead), ok, "list-domains", "List the domains of a tenant", a.listDomains)
	op(a, post, "/v1/tenants/{tenant}/domains", needs(operator.DomainEdit), created, "add-domain", "Claim a hostname for a tenant", a.addDomain)
	op(a, post, "/v1/domains/{id}/verify", needs(operator.DomainEdit), ok, "verify-domain", "Look for the TXT record and route the hostname", a.verifyDomain)
	op(a, post, "/v1/domains/{id}/check", needs(operator.DomainEdit), ok, "check-domain", "Ask the DNS now whether the record is there", a.checkDomain)
	op(a, post, "/v1/domains/{id}/primary", needs(operator.DomainEdit), ok, "set-primary-domain", "Write the tenant's links with this hostname", a.setPrimaryDomain)
	op(a, remove, "/v1/domains/{id}/primary", needs(operator.DomainEdit), ok, "unset-primary-domain", "Write the tenant's links with its name on the platform again", a.unsetPrimaryDomain)
	op(a, remove, "/v1/domains/{id}", needs(operator.DomainEdit), nothing, "remove-domain", "Release a hostname", a.removeDomain)
	op(a, get, "/v1/tls/ask", open, ok, "tls-ask", "May a certificate be ordered for this name?", a.tlsAsk)

	op(a, get, "/v1/plans", needs(operator.PlanRead), ok, "list-plans", "List plans", a.listPlans)
	op(a, post, "/v1/plans", needs(operator.PlanEdit), created, "create-plan", "Make a plan", a.createPlan)
	op(a, get, "/v1/plans/{code}", needs(operator.PlanRead), ok, "show-plan", "Show a plan", a.showPlan)
	op(a, patch, "/v1/plans/{code}", needs(operator.PlanEdit), ok, "update-plan", "Change a plan, for all its tenants", a.updatePlan)
	op(a, remove, "/v1/plans/{code}", needs(operator.PlanEdit), nothing, "delete-plan", "Remove a plan that no tenant has", a.deletePlan)
	op(a, get, "/v1/backup-rules", needs(operator.PlanRead), ok, "list-backup-rules", "How often tenants of each plan are backed up, and how long that is kept", a.listBackupRules)
	op(a, put, "/v1/backup-rules/{plan}", needs(operator.PlanEdit), ok, "set-backup-rule", "Change how often tenants of a plan are backed up", a.setBackupRule)
	op(a, get, "/v1/servers", needs(operator.ServerRead), ok, "list-servers", "List Postgres servers", a.listServers)
	op(a, post, "/v1/servers", needs(operator.ServerEdit), created, "add-server", "Add a Postgres server", a.addServer)
	op(a, get, "/v1/servers/{server}", needs(operator.ServerRead), ok, "show-server", "Show a server, by id or name", a.showServer)
	op(a, patch, "/v1/servers/{server}", needs(operator.ServerEdit), ok, "update-server", "Change capacity, region, status or address", a.updateServer)
	op(a, remove, "/v1/servers/{server}", needs(operator.ServerEdit).fresh(), nothing, "remove-server", "Forget a server that nothing is left on", a.removeServer)
	op(a, post, "/v1/servers/{server}/prepare", needs(operator.ServerEdit), ok, "prepare-server", "Prepare a server again, for what this release needs", a.prepareServer)
	op(a, post, "/v1/servers/{server}/drain", needs(operator.ServerDrain), accepted, "drain-server", "Move all tenants to other servers", a.drainServer)
	op(a, post, "/v1/servers/{server}/adopt", needs(operator.TenantRestore).fresh(), accepted, "adopt-tenant", "Take in a tenant's database that the control database does not know", a.adoptTenant)
	op(a, post, "/v1/servers/{server}/activate", needs(operator.ServerDrain), ok, "activate-server", "Place tenants there again", a.activateServer)

	op(a, get, "/v1/warm-pool", needs(operator.ServerRead), ok, "list-warm-pool", "How many databases are kept ready, and how many are", a.listWarmPool)
	op(a, put, "/v1/warm-pool", needs(operator.ServerEdit), ok, "resize-warm-pool", "Say how many databases to keep ready on a server for a plan", a.resizeWarmPool)

	op(a, get, "/v1/operations", needs(operator.OperationRead), ok, "list-operations", "List operations", a.listOperations)
	op(a, get, "/v1/operations/{id}", needs(operator.OperationRead), ok, "show-operation", "Show an operation and its steps", a.showOperation)
	op(a, post, "/v1/operations/{id}/cancel", needs(operator.OperationStop), accepted, "cancel-operation", "Give an operation up, and remove what it has made", a.cancelOperation)
	op(a, get, "/v1/operations/{id}/events", needs(operator.OperationRead), ok, "watch-operation", "Follow an operation (server-sent events)", a.watchOperation)

	op(a, get, "/v1/webhooks", needs(operator.WebhookRead), ok, "list-webhooks", "List webhooks", a.listWebhooks)
	op(a, post, "/v1/webhooks", needs(operator.WebhookEdit), created, "create-webhook", "Have events sent to an address", a.createWebhook)
	op(a, get, "/v1/webhooks/event-types", needs(operator.WebhookRead), ok, "list-event-types", "What a webhook can hear of", a.listEventTypes)
	op(a, get, "/v1/webhooks/{id}", needs(operator.WebhookRead), ok, "show-webhook", "Show a webhook", a.showWebhook)
	op(a, patch, "/v1/webhooks/{id}", needs(operator.WebhookEdit), ok, "update-webhook", "Change a webhook, disable, activate", a.updateWebhook)
	op(a, remove, "/v1/webhooks/{id}", needs(operator.WebhookEdit), nothing, "delete-webhook", "Remove a webhook", a.deleteWebhook)
	op(a, post, "/v1/webhooks/{id}/test", needs(operator.WebhookEdit), accepted, "test-webhook", "Send a test event", a.testWebhook)
	op(a, get, "/v1/webhooks/{id}/deliveries", needs(operator.WebhookRead), ok, "list-deliveries", "List what was sent to a webhook", a.listDeliveries)
	op(a, post, "/v1/webhooks/deliveries/{id}/redeliver", needs(operator.WebhookEdit), accepted, "redeliver", "Send an event once more, under the same webhook-id", a.redeliver)

	op(a, get, "/v1/audit", needs(operator.AuditRead), ok, "list-audit", "What operators and the system did", a.listAudit)
	op(a, get, "/v1/keys", needs(operator.KeyRead), ok, "list-keys", "The keys of both planes, and what needs each of them", a.listKeys)
	op(a, post, "/v1/keys/{kind}/rotate", needs(operator.KeyRotate), accepted, "rotate-key", "Leave nothing to the keys of a plane that do not seal any more", a.rotateKey)
	op(a, get, "/v1/reconcile", needs(operator.FleetInspect), ok, "reconcile", "Compare the control database with the servers", a.reconcile)
	op(a, post, "/v1/reconcile/repair", needs(operator.FleetRepair), accepted, "repair", "Mend what the comparison finds, as far as it is provably ours", a.repair)
}
