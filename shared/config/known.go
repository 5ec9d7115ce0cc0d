package config

// Setting is one environment variable that some binary reads.
type Setting struct {
	Name string
	Doc  string // one line for docs/configuration.md
}

// Known lists every OUVIRA_ variable of every binary, tests included: a name
// that is not here is a typing error, and refused. One binary may well find a
// variable of another in its environment.
var Known = []Setting{
	{"OUVIRA_ENV", "`local`, `staging` or `production`. Production refuses insecure values."},
	{"OUVIRA_BASE_DOMAIN", "Tenants answer at `<slug>.<base domain>`. The older name `TENANT_BASE_DOMAIN` works too."},
	{"OUVIRA_PUBLIC_SCHEME", "Scheme of the tenants' addresses in mails, `login_url` and the tokens' issuer: `http` or `https`."},
	{"OUVIRA_PUBLIC_PORT", "Port of the tenants' addresses in mails and `login_url`; empty means the scheme's own."},
	{"OUVIRA_LISTEN", "Address of the public listener, as `host:port` or `:port`."},
	{"OUVIRA_INTERNAL_LISTEN", "Address of the internal listener (`/healthz`, `/readyz`, `/metrics`; a node's also `/debug/tenants`). Keep it off the public network."},
	{"OUVIRA_TRUSTED_PROXIES", "Networks, separated by commas, whose `X-Forwarded-For` and `X-Tenant` are believed."},
	{"OUVIRA_CONTROL_DATABASE_URL", "The control database, as the role of the control plane."},
	{"OUVIRA_NODE_DATABASE_URL", "The control database, as the role `ouvira_node`."},
	{"OUVIRA_NODE_ID", "Stable name of this process, by which it keeps its share of connections across restarts. Default: the machine's name and the port."},
	{"OUVIRA_CONNECTION_SHARE", "The most (0 to 1) of every tenant server's connection budget that this process leases. Default: 1 for a node, 0.1 for a worker, 0.02 for the API."},
	{"OUVIRA_INLINE_OPERATIONS", "How many tenants of sign-ups the control plane's API makes itself at a time, while the customer waits; what is more, and what takes longer, is left to workers. `0`: workers make all of them. Each takes up to three connections of the API's share of a server."},
	{"OUVIRA_WORKER_OPERATIONS", "How many operations (a tenant being made, say) a worker runs at once. Each takes up to three connections of the worker's share of a server."},
	{"OUVIRA_WORKER_LONG_OPERATIONS", "How many operations that may take long (backups, moves, restores) a worker runs at once besides. A move takes three connections at each of its two servers."},
	{"OUVIRA_DATA_KEY_FILE", "The data plane's private key (opens tenant credentials) and sealing keys. Data plane only."},
	{"OUVIRA_DATA_PUBLIC_KEY_FILE", "The data plane's public key, to which the control plane seals tenant credentials."},
	{"OUVIRA_CONTROL_KEY_FILE", "The control plane's sealing keys. Control plane only."},
	{"OUVIRA_SNAPSHOT_FILE", "Where a node keeps its encrypted copy of the route table, and, in a file beside it (`.shares`), of the connections that it may hold."},
	{"OUVIRA_CONTROL_URL", "Where people reach the control plane: links in operators' mails begin with it."},
	{"OUVIRA_RESERVED_DOMAINS", "Host names of the platform, separated by commas, that no tenant may claim."},
	{"OUVIRA_DNS_SERVERS", "Name servers, as `host:port` separated by commas, that are asked for tenants' TXT records. Empty: those of the machine."},
	{"OUVIRA_SIGNUP_APPROVAL", "`true` lets sign-ups wait for an operator."},
	{"OUVIRA_SIGNUPS_PER_ADDRESS", "How many sign-ups an hour may come from one address."},
	{"OUVIRA_SIGNUPS_PER_NETWORK", "How many sign-ups an hour may come from one network."},
	{"OUVIRA_SIGNUP_ORIGINS", "Origins, separated by commas, of the sign-up pages that may call the control plane."},
	{"OUVIRA_WEBHOOK_PRIVATE", "`true` lets webhooks lead to private addresses and speak plain HTTP: for tests, and a machine of one's own."},
	{"OUVIRA_AUDIT_SEAL_EVERY", "How long audit records of a tenant may wait until they are sealed: until then a superuser of its database could change them unseen."},
	{"OUVIRA_LINGER", "How long a node that was told to stop goes on serving, with `/readyz` off already: as long as the load balancer needs to notice, `5s` say."},
	{"OUVIRA_AUTH_COOKIES", "`true` lets browsers sign in with cookies besides bearer tokens."},
	{"OUVIRA_BACKUP_URL", "Where backups go: `file:///directory`, or `s3://bucket/prefix?endpoint=https://…&region=…` with the credentials that AWS's tools use. Empty: there are none."},
	{"OUVIRA_LOG_LEVEL", "`debug`, `info`, `warn` or `error`."},
	{"OUVIRA_SLOW_REQUEST", "Requests that take longer get a warning with where their time went, and the slowest statement; `0` never."},
	{"OUVIRA_TOP_TENANTS", "How many of the busiest tenants the metrics and `/debug/tenants` show, in each order; `0` counts nobody."},
	{"OUVIRA_TELEMETRY_ENDPOINT", "Where traces are sent: a collector that takes OTLP over HTTP, such as `http://localhost:4318`. Empty: there are none. OpenTelemetry's own `OTEL_EXPORTER_OTLP_ENDPOINT` works too."},
	{"OUVIRA_TWILIO_URL", "Another address for Twilio's API (tests)."},
	{"OUVIRA_TURNSTILE_URL", "Another address for Turnstile's verification (tests)."},
	{"OUVIRA_URL", "CLI: address of the control plane."},
	{"OUVIRA_TOKEN", "CLI: token to use instead of the saved login."},
	{"OUVIRA_PG_BIN", "Directory of Postgres' programs: `pg_dump` and `pg_restore` for the control plane, the server too for the local stack and tests. Empty: they are looked for."},
	{"OUVIRA_STATE", "Local stack: directory of its state (`.ouvira`)."},
	{"OUVIRA_PORT_BASE", "Local stack: shifts all ports by this number."},
	{"OUVIRA_FAILPOINT_DIR", "Builds with the tag `failpoints`: where tests arm them."},
	{"OUVIRA_TEST_DATABASE_URL", "Tests: a Postgres server to use instead of starting one."},
	{"OUVIRA_TEST_PG18_BIN", "Tests: binaries of Postgres 18."},
	{"OUVIRA_TEST_PG_TEMPLATES", "Tests: a folder where the processes of a run share what initdb makes."},
}

// aliases are names of the reference system for things that stay, and those of
// OpenTelemetry.
var aliases = map[string]string{
	"TENANT_BASE_DOMAIN":          "OUVIRA_BASE_DOMAIN",
	"OTEL_EXPORTER_OTLP_ENDPOINT": "OUVIRA_TELEMETRY_ENDPOINT",
}

// KnownName tells whether some binary reads the variable.
func KnownName(name string) bool { return docOf(name) != "" }

func docOf(name string) string {
	for _, s := range Known {
		if s.Name == name {
			return s.Doc
		}
	}
	return docOfForeign(name)
}

// foreign are the variables without our prefix, which keep the names that
// their services, OpenTelemetry or the reference system gave them.
var foreign = []Setting{
	{"FRONTEND_URL", "Address of the operator's web front end, for links in mails."},
	{"EMAIL_HOST", "SMTP server for mail."},
	{"EMAIL_PORT", "Port of the SMTP server."},
	{"EMAIL_HOST_USER", "User at the SMTP server; empty means no authentication."},
	{"EMAIL_HOST_PASSWORD", "Password at the SMTP server."},
	{"EMAIL_USE_TLS", "`true` demands STARTTLS."},
	{"DEFAULT_FROM_EMAIL", "Sender of mails."},
	{"CORS_ALLOWED_ORIGINS", "Origins, separated by commas, that browsers may call from."},
	{"TWILIO_ACCOUNT_SID", "Twilio account for SMS."},
	{"TWILIO_AUTH_TOKEN", "Twilio's token."},
	{"TWILIO_PHONE_NUMBER", "Sender of SMS."},
	{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "Where traces are sent, as a whole address (`…/v1/traces`); goes before the other one."},
	{"OTEL_EXPORTER_OTLP_PROTOCOL", "Only `http/protobuf` is spoken."},
	{"OTEL_TRACES_SAMPLER", "Which traces are kept: `always_on`, `always_off`, `traceidratio`, or one of them with `parentbased_` before it, which does as a caller's `traceparent` says."},
	{"OTEL_TRACES_SAMPLER_ARG", "The part (0 to 1) that `traceidratio` keeps."},
	{"OTEL_SDK_DISABLED", "`true` makes no traces whatever else is set."},
	{"TURNSTILE_SITE_KEY", "Cloudflare Turnstile: the public key."},
	{"TURNSTILE_SECRET_KEY", "Cloudflare Turnstile: the secret key."},
}

func docOfForeign(name string) string {
	for _, s := range foreign {
		if s.Name == name {
			return s.Doc
		}
	}
	return ""
}
