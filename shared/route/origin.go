package route

import (
	"net/url"
	"strings"
)

// IsOrigin tells whether s is a web origin (scheme, host, port) and not "null"
// or a wildcard.
func IsOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && !strings.Contains(u.Host, "*") &&
		u.Scheme+"://"+u.Host == s && u.User == nil
}
