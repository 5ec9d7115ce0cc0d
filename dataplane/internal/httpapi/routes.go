package httpapi

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/organization"
)

const (
	get    = http.MethodGet
	post   = http.MethodPost
	put    = http.MethodPut
	patch  = http.MethodPatch
	remove = http.MethodDelete

	ok      = http.StatusOK
	created = http.StatusCreated
	nothing = http.StatusNoContent
)

// routes is the whole surface: how, where, what it is called, what it answers,
// who may. An operation is open to anyone, or reads as somebody, or writes as
// somebody (in one transaction), or acts as somebody (with connections that it
// takes when it needs them).
func (s *server) routes(api huma.API) {
	s.authRoutes(api)
	s.signupRoutes(api)
	s.passwordRoutes(api)
	s.accountRoutes(api)
	s.machineRoutes(api)
	s.companyRoutes(api)
	s.invitationRoutes(api)
	s.accessRoutes(api)
	s.auditRoutes(api)
	s.notificationRoutes(api)
	s.organizationRoutes(api)
}

func (s *server) authRoutes(api huma.API) {
	open(s, api, op(post, "/auth/login", "login", "Sign in with a password", ok), s.login)
	open(s, api, op(post, "/auth/token/refresh", "refresh-token", "Change a refresh token for new tokens", ok), s.refresh)
	write(s, api, op(post, "/auth/logout", "logout", "End this session", http.StatusResetContent).own().evenWithoutSecondFactor(), s.logout)
	read(s, api, op(get, "/auth/sessions", "list-sessions", "Devices on which one is signed in", ok).own(), s.listSessions)
	write(s, api, op(remove, "/auth/sessions/{id}", "end-session", "Sign a device out", nothing).own(), s.endSession)
	open(s, api, op(get, "/.well-known/jwks.json", "signing-keys", "The public keys of this tenant's tokens", ok), s.jwks)
}

func (s *server) accountRoutes(api huma.API) {
	open(s, api, op(post, "/account/register", "register", "Make an account and sign in", created), s.register)
	read(s, api, op(get, "/account/me", "me", "Who is signed in", ok).own().evenMachines().evenWithoutSecondFactor(), s.me)
	read(s, api, op(get, "/account/profile", "profile", "One's own profile", ok).own().evenWithoutSecondFactor(), s.me)
	write(s, api, op(put, "/account/profile", "replace-profile", "Change one's own profile; what is absent stays", ok).own(), s.replaceProfile)
	write(s, api, op(patch, "/account/profile", "change-profile", "Change some of one's own profile", ok).own(), s.patchProfile)
	read(s, api, op(get, "/account/session-test", "session-test", "Whether one is signed in, and until when", ok).own(), s.sessionTest)
	read(s, api, op(get, "/account/session-tests", "session-test-alias", "The same as /account/session-test", ok).own(), s.sessionTest)
	read(s, api, op(get, "/account/login-activity", "login-activity", "When and from where one has signed in, or somebody tried", ok).own(), s.loginActivity)
	act(s, api, op(post, "/account/email/verify", "verify-email", "Verify one's email address by a code", ok).own(), s.verifyEmail)
	act(s, api, op(post, "/account/phone/verify", "verify-phone", "Verify one's phone number by a code", ok).own().evenWithoutSecondFactor(), s.verifyPhone)
	s.userRoutes(api)
}

// userRoutes: looking after the users of one's companies.
func (s *server) userRoutes(api huma.API) {
	read(s, api, op(get, "/account/users", "list-users", "Users of one's companies", ok).needs(access.UserRead), s.listUsers)
	read(s, api, op(get, "/account/users/{id}", "get-user", "One user", ok).needs(access.UserRead), s.getUser)
	write(s, api, op(patch, "/account/users/{id}", "change-user", "Change a user, or let a disabled one in again", ok).needs(access.UserEdit), s.patchUser)
	write(s, api, op(post, "/account/users/{id}/deactivate", "deactivate-user", "Disable a user, who is signed out everywhere at once", ok).needs(access.UserDeactivate), s.deactivateUser)
}

func (s *server) companyRoutes(api huma.API) {
	read(s, api, op(get, "/company", "list-companies", "Companies that one can see", ok).own().evenMachines(), s.listCompanies)
	write(s, api, op(post, "/company", "create-company", "Make a company and become its owner", created).own(), s.createCompany)
	read(s, api, op(get, "/company/{id}", "get-company", "One company", ok).needs(access.CompanyRead), s.getCompany)
	write(s, api, op(put, "/company/{id}", "replace-company", "Change a company; what is absent stays", ok).needs(access.CompanyEdit).evenDeactivated(), s.replaceCompany)
	write(s, api, op(patch, "/company/{id}", "patch-company", "Change a company, move it, or turn it on and off", ok).needs(access.CompanyEdit).evenDeactivated(), s.patchCompany)
	write(s, api, op(remove, "/company/{id}", "delete-company", "Delete a company that has no subsidiaries", nothing).needs(access.CompanyDelete).evenDeactivated(), s.deleteCompany)
	read(s, api, op(get, "/company/{id}/tree", "company-tree", "A company with those below it that one can see", ok).needs(access.CompanyRead), s.companyTree)
	read(s, api, op(get, "/company/{id}/settings", "get-company-settings", "A company's settings", ok).needs(access.CompanyRead), s.getSettings)
	write(s, api, op(put, "/company/{id}/settings", "replace-company-settings", "Change a company's settings; what is absent stays", ok).needs(access.CompanySettings), s.changeSettings)
	write(s, api, op(patch, "/company/{id}/settings", "patch-company-settings", "Change some of a company's settings", ok).needs(access.CompanySettings), s.changeSettings)
	read(s, api, op(get, "/company/{id}/members", "list-members", "Who belongs to a company", ok).needs(access.MemberRead), s.listMembers)
	write(s, api, op(patch, "/company/{id}/members/{user_id}", "patch-member", "Switch a membership off or on, or set its roles", ok).needs(access.MemberEdit), s.patchMember)
	write(s, api, op(remove, "/company/{id}/members/{user_id}", "remove-member", "End a membership", nothing).needs(access.MemberRemove), s.removeMember)
	read(s, api, op(get, "/company/{id}/roles", "list-company-roles", "Roles that can be given in a company", ok).needs(access.RoleRead), s.listCompanyRoles)
	write(s, api, op(post, "/company/{id}/roles", "create-company-role", "Make a role of a company", created).needs(access.RoleCreate), s.createCompanyRole)
}

// signupRoutes: accounts by phone, and the second factor.
func (s *server) signupRoutes(api huma.API) {
	open(s, api, op(post, "/auth/signup", "signup", "Ask for a code by SMS, to make an account by phone", created), s.signup)
	open(s, api, op(post, "/auth/verify-otp", "verify-otp", "Prove the number with the code", ok), s.verifyOTP)
	open(s, api, op(post, "/auth/resend-otp", "resend-otp", "Ask for another code", ok), s.resendOTP)
	open(s, api, op(post, "/auth/resent-otp", "resend-otp-alias", "The same as /auth/resend-otp", ok), s.resendOTP)
	open(s, api, op(post, "/auth/finalize-signup", "finalize-signup", "Make the account of a verified number, and sign in", created), s.finishSignup)
	open(s, api, op(post, "/auth/finalize-signin", "finalize-signup-alias", "The same as /auth/finalize-signup", created), s.finishSignup)

	open(s, api, op(post, "/auth/login-2fa-verify-code", "login-2fa-verify-code", "Finish a login with a code", ok), s.loginByCode)
	open(s, api, op(post, "/auth/login-2fa-verify-backup", "login-2fa-verify-backup", "Finish a login with a backup code", ok), s.loginByBackupCode)
	act(s, api, op(post, "/auth/settings_enable-2fa", "enable-2fa", "Begin with a second factor, or with another one", ok).own().evenWithoutSecondFactor(), s.enable2FA)
	act(s, api, op(post, "/auth/2fa/confirm", "confirm-2fa", "Let the second factor count, by its first code", ok).own().evenWithoutSecondFactor(), s.confirm2FA)
	act(s, api, op(post, "/auth/2fa/disable", "disable-2fa", "Do without a second factor", ok).own(), s.disable2FA)
	act(s, api, op(post, "/auth/2fa/backup-codes", "regenerate-backup-codes", "Make new backup codes", ok).own(), s.renewBackupCodes)
	write(s, api, op(post, "/auth/2fa/send-code", "send-2fa-code", "Ask for a code by SMS, where that is one's second factor", ok).own(), s.send2FACode)
}

func (s *server) passwordRoutes(api huma.API) {
	open(s, api, op(post, "/auth/password/forgot", "forgot-password", "Mail a link with which to set a new password", ok), s.forgotPassword)
	act(s, api, op(post, "/account/change-password", "change-password", "Change one's own password, which ends one's other sessions", ok).own(), s.changePassword)
	open(s, api, op(post, "/auth/password/reset", "reset-password", "Set a password with the token of a mailed link", ok), s.resetPassword)
}

// machineRoutes: API keys, and the support that owners let in.
func (s *server) machineRoutes(api huma.API) {
	read(s, api, op(get, "/account/api-keys", "list-api-keys", "API keys of one's companies", ok).needs(access.APIKeyRead), s.listAPIKeys)
	write(s, api, op(post, "/account/api-keys", "create-api-key", "Make an API key", created).needs(access.APIKeyCreate), s.createAPIKey)
	write(s, api, op(remove, "/account/api-keys/{id}", "revoke-api-key", "Revoke an API key", nothing).needs(access.APIKeyRevoke).evenDeactivated(), s.revokeAPIKey)
	read(s, api, op(get, "/account/support-access", "get-support-access", "Whether the platform's support is let in, and when it entered", ok).needs(access.SupportConsent), s.getSupportAccess)
	write(s, api, op(put, "/account/support-access", "allow-support-access", "Let the platform's support in", ok).needs(access.SupportConsent).byPeople(), s.allowSupport)
	write(s, api, op(remove, "/account/support-access", "end-support-access", "Take the consent back, and end what support does", nothing).needs(access.SupportConsent).byPeople(), s.endSupport)
	open(s, api, op(post, "/auth/support-session", "enter-support", "For the platform's support: change a code for an access token", ok), s.enterSupport)
}

func (s *server) invitationRoutes(api huma.API) {
	const invitations, one = "/access-control/invitations", "/access-control/invitations/{id}"
	write(s, api, op(post, "/company/{id}/invite", "invite-to-company", "Invite somebody to a company", created).needs(access.InvitationCreate), s.inviteToCompany)
	read(s, api, op(get, "/company/{id}/invitations", "list-company-invitations", "Invitations to a company", ok).needs(access.InvitationRead), s.listCompanyInvitations)
	read(s, api, op(get, invitations, "list-invitations", "Invitations to all companies in which one may see them", ok).needs(access.InvitationRead), s.listInvitations)
	write(s, api, op(post, invitations, "create-invitation", "Invite somebody", created).needs(access.InvitationCreate), s.createInvitation)
	write(s, api, op(post, invitations+"/accept", "accept-invitation", "Become a member by the token of an invitation", ok).own(), s.acceptInvitation)
	read(s, api, op(get, one, "get-invitation", "One invitation", ok).needs(access.InvitationRead), s.getInvitation)
	write(s, api, op(remove, one, "delete-invitation", "Take an invitation out of the lists; a pending one is revoked", nothing).needs(access.InvitationRevoke), s.deleteInvitation)
	write(s, api, op(post, one+"/revoke", "revoke-invitation", "Take an invitation back", ok).needs(access.InvitationRevoke), s.revokeInvitation)
	write(s, api, op(post, one+"/resend", "resend-invitation", "Send an invitation again, with a new token", ok).needs(access.InvitationCreate), s.resendInvitation)
}

func (s *server) accessRoutes(api huma.API) {
	s.catalogueRoutes(api)
	s.membershipRoutes(api)
	read(s, api, op(get, "/access-control/effective", "effective-permissions", "What somebody may do in a company", ok).own(), s.effective)
	read(s, api, op(get, "/access-control/explain", "explain-permission", "Whether somebody may do something in a company, and why", ok).own(), s.explain)
}

// catalogueRoutes: permissions, roles, and what roles say of permissions.
func (s *server) catalogueRoutes(api huma.API) {
	read(s, api, op(get, "/access-control/permissions", "list-permissions", "The catalogue of permissions", ok).needs(access.PermissionRead), s.listPermissions)
	write(s, api, op(post, "/access-control/permissions", "create-permission", "Add a permission, which owners hold at once", created).needs(access.PermissionCreate), s.createPermission)
	read(s, api, op(get, "/access-control/permissions/{id}", "get-permission", "One permission", ok).needs(access.PermissionRead), s.getPermission)
	write(s, api, op(put, "/access-control/permissions/{id}", "replace-permission", "Change a permission of one's own", ok).needs(access.PermissionEdit), s.replacePermission)
	write(s, api, op(patch, "/access-control/permissions/{id}", "patch-permission", "Change some of a permission of one's own", ok).needs(access.PermissionEdit), s.patchPermission)
	write(s, api, op(remove, "/access-control/permissions/{id}", "delete-permission", "Take a permission of one's own away, from every role too", nothing).needs(access.PermissionDelete), s.deletePermission)

	read(s, api, op(get, "/access-control/roles", "list-roles", "Roles that can be given where one sees roles", ok).needs(access.RoleRead), s.listRoles)
	write(s, api, op(post, "/access-control/roles", "create-role", "Make a role, of a company or system-wide", created).needs(access.RoleCreate), s.createRole)
	read(s, api, op(get, "/access-control/roles/{id}", "get-role", "One role", ok).needs(access.RoleRead), s.getRole)
	write(s, api, op(put, "/access-control/roles/{id}", "replace-role", "Change a role", ok).needs(access.RoleEdit), s.replaceRole)
	write(s, api, op(patch, "/access-control/roles/{id}", "patch-role", "Change some of a role", ok).needs(access.RoleEdit), s.patchRole)
	write(s, api, op(remove, "/access-control/roles/{id}", "delete-role", "Delete a role that nobody holds", nothing).needs(access.RoleDelete), s.deleteRole)
	read(s, api, op(get, "/access-control/roles/{id}/permissions", "list-permissions-of-role", "What a role grants and denies", ok).needs(access.RoleRead), s.permissionsOfRole)
	write(s, api, op(post, "/access-control/roles/{id}/permissions", "set-permission-of-role", "Let a role grant or deny a permission", created).needs(access.RoleEdit), s.sayOfRole)
	write(s, api, op(remove, "/access-control/roles/{id}/permissions", "delete-permission-of-role", "Let a role speak of a permission no more", nothing).needs(access.RoleEdit), s.unsayOfRole)

	read(s, api, op(get, "/access-control/role-permissions", "list-role-permissions", "What roles grant and deny", ok).needs(access.RoleRead), s.listRolePermissions)
	write(s, api, op(post, "/access-control/role-permissions", "create-role-permission", "Let a role grant or deny a permission of which it does not speak", created).needs(access.RoleEdit), s.createRolePermission)
	read(s, api, op(get, "/access-control/role-permissions/{id}", "get-role-permission", "What a role says of one permission", ok).needs(access.RoleRead), s.getRolePermission)
	write(s, api, op(put, "/access-control/role-permissions/{id}", "replace-role-permission", "Grant what was denied, or deny what was granted", ok).needs(access.RoleEdit), s.replaceRolePermission)
	write(s, api, op(remove, "/access-control/role-permissions/{id}", "delete-role-permission", "Let the role speak of it no more", nothing).needs(access.RoleEdit), s.deleteRolePermission)
}

// membershipRoutes: who is in which company, with which roles.
func (s *server) membershipRoutes(api huma.API) {
	read(s, api, op(get, "/access-control/user-companies", "list-user-companies", "Who is in which company", ok).needs(access.MemberRead), s.listUserCompanies)
	write(s, api, op(post, "/access-control/user-companies", "create-user-company", "Make a user whom one knows a member", created).needs(access.MemberEdit), s.createUserCompany)
	read(s, api, op(get, "/access-control/user-companies/{id}", "get-user-company", "One membership", ok).needs(access.MemberRead), s.getUserCompany)
	write(s, api, op(put, "/access-control/user-companies/{id}", "replace-user-company", "Change a membership; what is absent stays", ok).needs(access.MemberEdit), s.replaceUserCompany)
	write(s, api, op(remove, "/access-control/user-companies/{id}", "delete-user-company", "End a membership with its roles", nothing).needs(access.MemberRemove), s.deleteUserCompany)

	read(s, api, op(get, "/access-control/user-company-roles", "list-user-company-roles", "Who holds which role where", ok).needs(access.MemberRead), s.listUserCompanyRoles)
	write(s, api, op(post, "/access-control/user-company-roles", "create-user-company-role", "Give a member a role", created).needs(access.RoleAssign), s.createUserCompanyRole)
	read(s, api, op(get, "/access-control/user-company-roles/{id}", "get-user-company-role", "One role of a member", ok).needs(access.MemberRead), s.getUserCompanyRole)
	write(s, api, op(put, "/access-control/user-company-roles/{id}", "replace-user-company-role", "Change how far a member's role reaches, and until when", ok).needs(access.RoleAssign), s.replaceUserCompanyRole)
	write(s, api, op(remove, "/access-control/user-company-roles/{id}", "delete-user-company-role", "Take a role away from a member", nothing).needs(access.RoleAssign), s.deleteUserCompanyRole)
}

func (s *server) auditRoutes(api huma.API) {
	read(s, api, op(get, "/audit/activity-logs", "list-activity-logs", "What was done", ok).needs(access.AuditRead), s.listActivities)
	read(s, api, op(get, "/audit/activity-logs/my", "list-own-activity-logs", "What one has done oneself", ok).own(), s.listOwnActivities)
	read(s, api, op(get, "/audit/security-logs", "list-security-logs", "Signing in and out, refusals, keys", ok).needs(access.AuditSecurity), s.listSecurityEvents)
	act(s, api, op(get, "/audit/verify", "verify-audit", "Prove that nobody has changed the audit", ok).needs(access.AuditVerify), s.verifyAudit)
	read(s, api, op(get, "/audit/trends", "audit-trends", "How often what was done, by period", ok).needs(access.AuditRead), s.auditTrends)
}

func (s *server) notificationRoutes(api huma.API) {
	read(s, api, op(get, "/notifications", "list-notifications", "What one is told", ok).own(), s.listNotifications)
	read(s, api, op(get, "/audit/notifications", "list-notifications-alias", "The same as /notifications", ok).own(), s.listNotifications)
	write(s, api, op(post, "/notifications/mark-read", "mark-notifications-read", "Mark one as read, or all", ok).own(), s.markRead)
	write(s, api, op(post, "/audit/notifications/mark-read", "mark-notifications-read-alias", "The same as /notifications/mark-read", ok).own(), s.markRead)
	read(s, api, op(get, "/notifications/outbox", "list-outbox", "Mail and SMS, and what has become of them", ok).needs(access.AuditRead), s.listOutbox)
}

func (s *server) organizationRoutes(api huma.API) {
	unitsOf(s, api, "departments", "department", "departments", organization.Departments,
		func(i Identified, f organization.Department, e Entity) Department { return Department{i, f, e} })
	unitsOf(s, api, "job-titles", "job title", "job titles", organization.JobTitles,
		func(i Identified, f organization.JobTitle, e Entity) JobTitle { return JobTitle{i, f, e} })
	unitsOf(s, api, "locations", "location", "locations", organization.Locations,
		func(i Identified, f organization.Location, e Entity) Location { return Location{i, f, e} })
	unitsOf(s, api, "positions", "position", "positions", organization.Positions,
		func(i Identified, f organization.Position, e Entity) Position { return Position{i, f, e} })
	read(s, api, op(get, "/organization/chart", "organization-chart", "A company's departments with managers and positions", ok).needs(access.OrganizationRead), s.organizationChart)
}
