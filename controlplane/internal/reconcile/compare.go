package reconcile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
)

// tenantName is the shape of the names that provisioning gives.
var tenantName = regexp.MustCompile(`^ov_[0-9a-f]{20}$`)

// comparison holds both sides of one server.
type comparison struct {
	server       server.Server
	tenants      []tenant
	unprepared   []string
	databases    map[string]database
	roles        map[string]role
	inside       map[string]inside
	ended        map[string]tenantdb.Database // what tenants that have ended had, by name
	moved        []string
	incarnations map[uuid.UUID]int // of all tenants
	directories  []int64
	oids         []int64
	watched      bool // the server tells trusted and passwords
	trusted      []trusted
	passwords    []string // roles with another password than they were given
	findings     []Finding
}

func (c *comparison) find(code string, severity Severity, t *tenant, object, message, action string) {
	f := Finding{
		Code: code, Severity: severity, ServerID: c.server.ID, Server: c.server.Name,
		Object: object, Message: message, Action: action,
	}
	if t != nil {
		id := t.ID
		f.TenantID = &id
		f.Repairable = t.Status == "active" && slices.Contains(repairable, code) || t.fenced() && code == codeFenceMissing
	}
	c.findings = append(c.findings, f)
}

func (c *comparison) compare() {
	for _, missing := range c.unprepared {
		c.find("server_not_prepared", SeverityError, nil, c.server.Name, "The server is not as it was prepared: "+missing+".",
			"Prepare it again with a superuser's credentials.")
	}
	c.authentication()
	known := map[string]bool{}
	for _, t := range c.tenants {
		if t.Database == nil {
			continue
		}
		known[*t.Database] = true
		// What is being made or failed half-way is the operation's business.
		if t.kept() {
			c.database(&t)
			c.role(&t)
		}
	}
	for _, name := range c.moved {
		known[name] = true
	}
	c.orphans(known)
}

// authentication looks at who is let in without a password.
func (c *comparison) authentication() {
	if !c.watched && len(c.unprepared) == 0 {
		c.find("server_not_watched", SeverityWarning, nil, c.server.Name,
			"The server was prepared by an earlier release: it does not tell who is let in without a password, nor which roles have changed theirs.",
			"Prepare it again (ouvira server prepare "+c.server.Name+").")
	}
	for _, rule := range c.trusted {
		severity := SeverityError
		if rule.Loopback {
			severity = SeverityWarning
		}
		c.find("trust_authentication", severity, nil, fmt.Sprintf("pg_hba.conf:%d", rule.Line),
			"Whoever reaches the server by this rule is anybody, without a password: "+rule.Rule+".", "Let the rule say scram-sha-256 instead of trust, and reload the server.")
	}
}

func (c *comparison) database(t *tenant) {
	name := *t.Database
	d, there := c.databases[name]
	switch {
	case !there:
		c.find("database_missing", SeverityError, t, name, "The tenant's database does not exist.", "Restore it from a backup.")
		return
	case d.Limit == invalidDatabase:
		c.find("database_invalid", SeverityError, t, name, "A DROP of the tenant's database was interrupted; it cannot be used.",
			"Finish the DROP and restore the database from a backup.")
		return
	case d.Owner != migrations.OwnerRole || d.Comment != t.comment():
		c.find("database_foreign", SeverityError, t, name, "The database of the tenant's name is not marked as this tenant's incarnation.",
			"Suspend the tenant and find out whose database it is.")
		return
	}
	if !d.Open {
		c.find(codeClosed, SeverityError, t, name, "The tenant's database takes no connections.",
			"If nobody is working on it: ALTER DATABASE "+name+" ALLOW_CONNECTIONS true.")
	}
	if d.Public {
		c.find(codePublic, SeverityError, t, name, "PUBLIC has rights in the tenant's database.", "REVOKE ALL ON DATABASE "+name+" FROM PUBLIC.")
	}
	if !slices.Contains(d.CanEnter, name) {
		c.find(codeConnectMissing, SeverityError, t, name, "The tenant's role may not connect to its database.",
			"If the tenant is not fenced: GRANT CONNECT ON DATABASE "+name+" TO "+name+".")
	}
	for _, other := range d.CanEnter {
		if other != name && tenantName.MatchString(other) {
			c.find(codeConnectForeign, SeverityError, t, other, "Another tenant's role may connect to this tenant's database.",
				"REVOKE CONNECT ON DATABASE "+name+" FROM "+other+", and find out who granted it.")
		}
	}
	if d.Open {
		c.contents(t)
	}
}

func (c *comparison) contents(t *tenant) {
	name := *t.Database
	in, looked := c.inside[name]
	switch {
	case !looked:
	case in.err != nil:
		c.find("marker_unreadable", SeverityError, t, name, "The database's marker or version cannot be read.",
			"Connect to it as ouvira_owner and see what is wrong.")
	case in.tenant != t.ID || in.incarnation != t.Incarnation:
		c.find("marker_foreign", SeverityError, t, name, "The database carries the marker of another tenant or incarnation; nodes refuse it.",
			"Suspend the tenant and find out whose data it holds.")
	default:
		if len(in.foreign) > 0 {
			c.find("foreign_code", SeverityError, t, name, "The database has what no tenant's database has: "+strings.Join(in.foreign, ", ")+".",
				"Find out who put it there, and drop it.")
		}
		if t.SigningKid != "" && !slices.Contains(in.kids, t.SigningKid) && !t.Busy {
			c.find(codeSigningKey, SeverityError, t, name, "The database does not have the key that nodes are to sign with: nobody can sign in.",
				"Give the tenant another one (ouvira tenant rotate "+t.ID.String()+" --signing-key --at-once), and find out who has taken it.")
		}
		if in.dirty {
			c.find(codeDirty, SeverityWarning, t, name, "A migration of the database was interrupted.", "Migrate it again: the ledger settles it.")
		}
		if in.version != t.SchemaVersion {
			c.find(codeVersion, SeverityError, t, name,
				fmt.Sprintf("The database is at schema version %d, the control database says %d.", in.version, t.SchemaVersion),
				"Migrate the tenant, or correct its row.")
		}
	}
}

func (c *comparison) role(t *tenant) {
	name := *t.Database
	r, there := c.roles[name]
	if !there {
		c.find("role_missing", SeverityError, t, name, "The tenant's role does not exist.", "Issue a new credential for the tenant.")
		return
	}
	if r.Superuser {
		c.find("role_powerful", SeverityError, t, name, "The tenant's role has rights over the whole server.",
			"ALTER ROLE "+name+" NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS, and find out who gave them.")
	}
	c.fence(t, r)
	if !r.AsMade {
		c.find(codeRoleSettings, SeverityWarning, t, name, "The role's settings are not those that it was given; it can change its own.",
			"ALTER ROLE "+name+" RESET ALL, then ALTER ROLE "+name+" SET temp_file_limit = '256MB'.")
	}
	if slices.Contains(c.passwords, name) && !t.Busy {
		c.find(codePassword, SeverityError, t, name, "The role's password is not the one that it was given; it can change its own. Nodes cannot log in with it.",
			"Issue a new credential for the tenant.")
	}
	for _, group := range r.Memberships {
		if group != migrations.AppRole {
			c.find(codeMembershipForeign, SeverityError, t, name, "The tenant's role is a member of "+group+".",
				"REVOKE "+group+" FROM "+name+", and find out who granted it.")
		}
	}
}

// fence compares what a fence takes from the role with whether there should be one.
// An operation that is at work on the tenant may have one of its own, or is about to
// put it on.
func (c *comparison) fence(t *tenant, r role) {
	name := *t.Database
	member := slices.Contains(r.Memberships, migrations.AppRole)
	switch {
	case t.Busy:
		return
	case t.fenced():
		if r.CanLogin || r.Limit != 0 || member {
			c.find(codeFenceMissing, SeverityError, t, name, "The tenant is "+t.Status+", and its role is not fenced: a node that hears of nothing could serve it on.",
				"REVOKE "+migrations.AppRole+" FROM "+name+", then ALTER ROLE "+name+" NOLOGIN CONNECTION LIMIT 0, then end its sessions.")
		}
		return
	case !r.CanLogin && r.Limit == 0 && !member:
		c.find(codeFenceLeft, SeverityError, t, name, "The tenant is active, and its role is fenced: it cannot be served.",
			fmt.Sprintf("GRANT %s TO %s, then ALTER ROLE %s LOGIN CONNECTION LIMIT %d.", migrations.AppRole, name, name, t.MaxConnections))
		return
	}
	if !r.CanLogin {
		c.find(codeNoLogin, SeverityError, t, name, "The tenant's role may not log in.", "If the tenant is not fenced: ALTER ROLE "+name+" LOGIN.")
	}
	if r.Limit != t.MaxConnections {
		c.find(codeRoleLimit, SeverityWarning, t, name, fmt.Sprintf("The role's connection limit is %d, the plan says %d.", r.Limit, t.MaxConnections),
			fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d.", name, t.MaxConnections))
	}
	if !slices.Contains(r.Memberships, migrations.AppRole) {
		c.find(codeMembershipMissing, SeverityError, t, name, "The tenant's role is no member of ouvira_app: it can read and write nothing.",
			"If the tenant is not fenced: GRANT ouvira_app TO "+name+".")
	}
}

// remains says of the last finding that it is left of a tenant of ours that has
// ended: purged, or never come to be.
func (c *comparison) remains(of tenantdb.Database) {
	f := &c.findings[len(c.findings)-1]
	f.TenantID, f.Repairable, f.orphan = &of.Tenant, true, of
	f.Message = "It is left of a tenant that is gone."
}

// orphans that are not marked as ours are only reported: they may be another
// control plane's.
func (c *comparison) orphans(known map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(c.databases)) {
		d := c.databases[name]
		switch {
		case tenantName.MatchString(name) && !known[name] && c.ended[name] == (tenantdb.Database{}) && c.unknown(c.server, d):
		case tenantName.MatchString(name) && !known[name]:
			whose := "it carries no mark"
			if d.Comment != "" {
				whose = "it is marked " + d.Comment
			}
			c.find("orphan_database", SeverityWarning, nil, name, "No tenant of this control plane has this database; "+whose+".",
				"If it is nobody's: DROP DATABASE "+name+" WITH (FORCE), then DROP ROLE "+name+".")
			if left, ours := c.ended[name]; ours && d.Owner == migrations.OwnerRole && d.Comment == left.Mark() {
				c.remains(left)
			}
		case (name == "postgres" || name == "template1") && d.Public && len(c.unprepared) == 0:
			c.find(codePublic, SeverityWarning, nil, name, "PUBLIC has rights in "+name+".", "REVOKE ALL ON DATABASE "+name+" FROM PUBLIC.")
		case strings.HasPrefix(name, "ouvira_template_") && strings.HasSuffix(name, "_building") && d.Limit == invalidDatabase:
			c.find("template_invalid", SeverityWarning, nil, name, "A DROP of an unfinished template was interrupted.", "Nothing: the next build finishes it.")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.roles)) {
		if _, hasDatabase := c.databases[name]; !known[name] && !hasDatabase {
			c.find("orphan_role", SeverityWarning, nil, name, "No tenant of this control plane has this role.", "If it is nobody's: DROP ROLE "+name+".")
			if left, ours := c.ended[name]; ours {
				c.remains(left)
			}
		}
	}
	for _, directory := range c.directories {
		if !slices.Contains(c.oids, directory) {
			c.find("orphan_directory", SeverityWarning, nil, fmt.Sprintf("base/%d", directory),
				"The directory belongs to no database: a crash in the middle of CREATE DATABASE left it.",
				"Stop the server, check that no database has this oid, and remove the directory.")
		}
	}
}
