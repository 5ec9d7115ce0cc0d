package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/ouvira/ouvira/deploy/stack"
)

// welcome tells what runs where and gives lines to copy.
func welcome(out io.Writer, demo stack.Demo, state string) {
	w := func(format string, arguments ...any) { fmt.Fprintf(out, format+"\n", arguments...) }
	node := strings.TrimPrefix(demo.DataURLs[0], "http://localhost")
	w("")
	w("Ouvira is ready.")
	w("")
	w("  control plane   %s   (API /v1, jobs /jobs/, API pages /swagger)", demo.ControlURL)
	w("  data plane      %s", strings.Join(demo.DataURLs, "   "))
	w("  mail catcher    %s/api/v1/messages", demo.MailURL)
	w("  SMS catcher     %s/messages", demo.SMSURL)
	w("  operator        %s   password %s", demo.Operator.Email, demo.Operator.Password)
	for _, tenant := range demo.Tenants {
		w("  tenant %-8s http://%s%s   owner %s   password %s", tenant.Slug, tenant.Host, node, tenant.OwnerEmail, tenant.OwnerPassword)
	}
	w("")
	w("  psql '%s'", demo.Postgres.Control)
	for _, server := range demo.Postgres.Servers {
		w("  psql '%s'   # tenant server %s", server.URL, server.Name)
	}
	if len(demo.Tenants) > 0 {
		tenant := demo.Tenants[0]
		base := "http://" + tenant.Host + node
		w("")
		w("Log in as the owner of %s and ask who that is:", tenant.Slug)
		w("")
		w(`  curl -s %s/auth/login -H 'Content-Type: application/json' -d '{"identifier":"%s","password":"%s"}' | tee login.json`,
			base, tenant.OwnerEmail, tenant.OwnerPassword)
		w(`  curl -s %s/account/me -H "Authorization: Bearer $(sed -E 's/.*"access": ?"([^"]+)".*/\1/' login.json)"`, base)
	}
	w("")
	w("Sign up a tenant of your own (the code comes by mail, see the mail catcher):")
	w("")
	w(`  curl -s %s/v1/signups -H 'Content-Type: application/json' -d '{"company_name":"Initech","slug":"initech","full_name":"Bill Lumbergh","email":"bill@initech.example","password":"a stapler of my own"}'`, demo.ControlURL)
	w("")
	w("Logs are in %s/log, everything a program may want to know in %s/demo.json.", state, state)
	w("Stop and start one part: make stop NAME=worker, make start NAME=worker. Ctrl-C stops everything.")
}
