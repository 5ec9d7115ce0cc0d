package access

// Permission is what an operation needs: "module.action".
type Permission string

// The seeded permissions, which operations depend on. They are the rows of the
// migration that seeds them; teams add their own beside them in the database.
const (
	UserRead         Permission = "user.read"
	UserCreate       Permission = "user.create"
	UserEdit         Permission = "user.edit"
	UserDeactivate   Permission = "user.deactivate"
	RoleRead         Permission = "role.read"
	RoleCreate       Permission = "role.create"
	RoleEdit         Permission = "role.edit"
	RoleDelete       Permission = "role.delete"
	RoleAssign       Permission = "role.assign"
	PermissionRead   Permission = "permission.read"
	PermissionCreate Permission = "permission.create"
	PermissionEdit   Permission = "permission.edit"
	PermissionDelete Permission = "permission.delete"
	CompanyRead      Permission = "company.read"
	CompanyCreate    Permission = "company.create"
	CompanyEdit      Permission = "company.edit"
	CompanyDelete    Permission = "company.delete"
	CompanySettings  Permission = "company.settings"
	InvitationRead   Permission = "invitation.read"
	InvitationCreate Permission = "invitation.create"
	InvitationRevoke Permission = "invitation.revoke"
	MemberRead       Permission = "member.read"
	MemberEdit       Permission = "member.edit"
	MemberRemove     Permission = "member.remove"
	AuditRead        Permission = "audit.read"
	AuditSecurity    Permission = "audit.security"
	AuditVerify      Permission = "audit.verify"
	OrganizationRead Permission = "organization.read"
	OrganizationEdit Permission = "organization.edit"
	APIKeyRead       Permission = "apikey.read"
	APIKeyCreate     Permission = "apikey.create"
	APIKeyRevoke     Permission = "apikey.revoke"
	SupportConsent   Permission = "support.consent"
)
