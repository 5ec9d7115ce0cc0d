package operator

import "slices"

// Role of an operator.
type Role string

// The roles. Owner and operator run the fleet; support and auditor look.
const (
	RoleOwner    Role = "owner"
	RoleOperator Role = "operator"
	RoleSupport  Role = "support"
	RoleAuditor  Role = "auditor"
)

// Roles in the order of what they may do.
var Roles = []Role{RoleOwner, RoleOperator, RoleSupport, RoleAuditor}

// Permission is what an operation of the API needs.
type Permission string

// The permissions.
const (
	TenantRead    Permission = "tenant.read"
	TenantCreate  Permission = "tenant.create" // also by cloning, and from an archive
	TenantEdit    Permission = "tenant.edit"
	TenantSuspend Permission = "tenant.suspend"
	TenantSignOut Permission = "tenant.signout" // everyone who is signed in there
	TenantDelete  Permission = "tenant.delete"  // and undelete
	TenantPurge   Permission = "tenant.purge"
	TenantMove    Permission = "tenant.move"
	TenantBackup  Permission = "tenant.backup"
	TenantRestore Permission = "tenant.restore"
	TenantExport  Permission = "tenant.export"

	DomainRead    Permission = "domain.read"
	DomainEdit    Permission = "domain.edit"
	ServerRead    Permission = "server.read"
	ServerEdit    Permission = "server.edit"
	ServerDrain   Permission = "server.drain"
	PlanRead      Permission = "plan.read"
	PlanEdit      Permission = "plan.edit"
	SignupRead    Permission = "signup.read"
	SignupDecide  Permission = "signup.decide"
	PaymentRead   Permission = "payment.read"
	PaymentEdit   Permission = "payment.edit"
	UsageRead     Permission = "usage.read"
	OperationRead Permission = "operation.read"
	OperationStop Permission = "operation.cancel"
	FleetInspect  Permission = "fleet.inspect"
	FleetRepair   Permission = "fleet.repair"
	KeyRead       Permission = "key.read" // their ids, and what is sealed with them
	KeyRotate     Permission = "key.rotate"
	JobManage     Permission = "job.manage"
	WebhookRead   Permission = "webhook.read"
	WebhookEdit   Permission = "webhook.edit"

	SupportEnter      Permission = "support.enter"
	SupportBreakGlass Permission = "support.breakglass" // without the tenant's consent

	AuditRead    Permission = "audit.read"
	OperatorRead Permission = "operator.read"
	OperatorEdit Permission = "operator.edit"
)

var (
	reading = []Permission{
		TenantRead, DomainRead, ServerRead, PlanRead, SignupRead, PaymentRead, UsageRead, OperationRead, FleetInspect, KeyRead,
	}
	running = []Permission{
		TenantCreate, TenantEdit, TenantSuspend, TenantSignOut, TenantDelete, TenantMove, TenantBackup, TenantRestore, TenantExport,
		DomainEdit, ServerEdit, ServerDrain, PlanEdit, SignupDecide, PaymentEdit, OperationStop, FleetRepair, KeyRotate, JobManage, WebhookRead, WebhookEdit,
		SupportEnter, AuditRead,
	}
	// What cannot be undone, and what gives power over others.
	owning  = []Permission{TenantPurge, SupportBreakGlass, OperatorRead, OperatorEdit}
	granted = map[Role][]Permission{
		RoleOwner:    slices.Concat(reading, running, owning),
		RoleOperator: slices.Concat(reading, running),
		RoleSupport:  slices.Concat(reading, []Permission{SupportEnter}),
		RoleAuditor:  slices.Concat(reading, []Permission{WebhookRead, AuditRead, OperatorRead}),
	}
)

// Valid tells whether there is such a role.
func (r Role) Valid() bool { return slices.Contains(Roles, r) }

// May tells whether the role has the permission.
func (r Role) May(p Permission) bool { return slices.Contains(granted[r], p) }

// KnownPermission tells whether p is one of the permissions above: an
// operation that declares another one has a typing error.
func KnownPermission(p Permission) bool { return RoleOwner.May(p) }
