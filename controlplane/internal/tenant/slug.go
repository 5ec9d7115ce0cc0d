package tenant

import (
	"strings"

	"github.com/ouvira/ouvira/shared/fault"
)

// Lengths of a slug: it is a DNS label.
const (
	MinSlug = 3
	MaxSlug = 63
)

// reserved names belong to the platform, or would pass for it in a browser's
// address bar.
var reserved = func() map[string]struct{} {
	set := map[string]struct{}{}
	for name := range strings.FieldsSeq(`
		about abuse account accounts admin administrator api app apps assets auth autoconfig autodiscover
		billing blog broadcasthost cdn cert client console control control-plane controlplane dashboard
		data data-plane dataplane dev developer developers dns docs download downloads email example
		files ftp gateway global help host hostmaster http https id identity imap img images info internal
		invalid invite isatap jobs legal local localdomain localhost login logout mail mailer me media
		metrics mobile monitor monitoring mx my ns ns1 ns2 ns3 null oauth official operator ouvira owner
		partner partners payment payments platform pop pop3 portal postmaster privacy private prod
		production proxy public register root security server service services sftp shop signin signup
		smtp ssh ssl sso staging static stats status store support swagger system team tenant tenants
		test tls undefined update upload user users vpn web webhook webhooks webmail webmaster wpad www
		www1 www2 www3`) {
		set[name] = struct{}{}
	}
	return set
}()

// CheckSlug refuses what cannot be a tenant's name in an address: slugs begin
// with a letter and have 3 to 63 lower-case letters, digits and hyphens. The
// fault names the field "slug".
func CheckSlug(slug string) error {
	refuse := func(code, message string) error {
		return fault.Invalid(message).Code("slug_"+code).OnField("slug", code, message)
	}
	switch {
	case slug == "":
		return refuse("required", "Choose a slug: it becomes the first part of the tenant's address.")
	case len(slug) > MaxSlug:
		return refuse("too_long", "The slug is longer than 63 characters. Choose a shorter one.")
	case len(slug) < MinSlug:
		return refuse("too_short", "The slug is shorter than 3 characters. Choose a longer one.")
	}
	for i := range len(slug) {
		c := slug[i]
		letter := 'a' <= c && c <= 'z'
		if letter || i > 0 && ('0' <= c && c <= '9' || c == '-') {
			continue
		}
		return refuse("characters", "A slug begins with a letter and has lower-case letters a to z, digits and hyphens only.")
	}
	if slug[len(slug)-1] == '-' {
		return refuse("characters", "A slug must not end with a hyphen.")
	}
	if len(slug) > 3 && slug[2:4] == "--" { // the form of internationalised names
		return refuse("characters", "A slug must not have two hyphens in third and fourth place.")
	}
	if _, taken := reserved[slug]; taken {
		return refuse("reserved", "This slug is reserved. Choose another one.")
	}
	return nil
}
