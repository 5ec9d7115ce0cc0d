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
	TenantCreate  Permission = "tenant.create"
	TenantEdit    Permission = "tenant.edit"
	TenantSuspend Permission = "tenant.suspend"
	DomainRead    Permission = "domain.read"
	DomainEdit    Permission = "domain.edit"
	ServerRead    Permission = "server.read"
	ServerEdit    Permission = "server.edit"
	PlanRead      Permission = "plan.read"
	PlanEdit      Permission = "plan.edit"
	SignupRead    Permission = "signup.read"
	OperationRead Permission = "operation.read"
	FleetInspect  Permission = "fleet.inspect"
	JobManage     Permission = "job.manage"
	AuditRead     Permission = "audit.read"
	OperatorRead  Permission = "operator.read"
)

var (
	reading = []Permission{
		TenantRead, DomainRead, ServerRead, PlanRead, SignupRead, OperationRead, FleetInspect,
	}
	running = []Permission{
		TenantCreate, TenantEdit, TenantSuspend, DomainEdit, ServerEdit, PlanEdit, JobManage, AuditRead,
	}
	granted = map[Role][]Permission{
		RoleOwner:    slices.Concat(reading, running, []Permission{OperatorRead}),
		RoleOperator: slices.Concat(reading, running),
		RoleSupport:  reading,
		RoleAuditor:  slices.Concat(reading, []Permission{AuditRead, OperatorRead}),
	}
)

// Valid tells whether there is such a role.
func (r Role) Valid() bool { return slices.Contains(Roles, r) }

// May tells whether the role has the permission.
func (r Role) May(p Permission) bool { return slices.Contains(granted[r], p) }

// KnownPermission tells whether p is one of the permissions above: an
// operation that declares another one has a typing error.
func KnownPermission(p Permission) bool { return RoleOwner.May(p) }
