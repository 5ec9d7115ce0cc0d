package e2e

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
)

const (
	password  = "a long enough pass phrase"
	password2 = "another long pass phrase"
	someone   = " id:int username:string full_name:string email:string "
	profile   = someone + "primary_mobile:string? email_verified:bool phone_verified:bool account_uid:string is_2fa_enabled:bool two_fa_type:string? date_joined:time last_login:time?"
	company   = " id:int name:string logo:string? create_by:int? parent_company:int? is_parent_company:bool description:string address:string status:string settings:object"
	settings  = " id:int company:int default_language:string default_currency:string timezone:string fiscal_year_start_month:int feature_flags:object"
	tokens    = " tokens.access:string tokens.refresh:string "
	invited   = " id:int email:string company:int role:int status:pending|accepted|revoked|expired expires_at:time invited_by:int accepted_by:int? "
)

// link finds the token of a mailed link.
var link = regexp.MustCompile(`[?&#]token=([A-Za-z0-9_-]{20,})`)

// one answers with a step's time-based code: 0 is now.
func oneTime(secret string, step int) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		t.Helper()
		at, ok := w.saved["totp now"].(time.Time)
		if !ok || step < 0 {
			at = time.Now()
			w.saved["totp now"] = at
		}
		code, err := totp.GenerateCode(w.text(t, secret), at.Add(time.Duration(step)*30*time.Second))
		must(t, err)
		w.saved["code"] = code
	}
}

// contract is the reference's behaviour, line by line. The rows are one story:
// each builds on those before it.
var contract = slices.Concat(
	authRows, accountRows, companyRows, accessRows, organizationRows, auditRows, machineRows, goodbyeRows,
)

var authRows = []row{
	// Open to anyone, and what is not.
	{operation: "GET /.well-known/jwks.json", status: 200, fields: "keys:list keys[].kid:string keys[].alg:ES256 keys[].crv:P-256 keys[].x:string keys[].y:string"},
	{operation: "GET /account/me", status: 401},
	{operation: "POST /auth/login", body: object{"identifier": "nobody{n}@acme.example", "password": password}, status: 401},
	{operation: "POST /auth/login", body: object{"identifier": "{owner.email}"}, status: 422, fields: "errors[].field:password"},
	{operation: "POST /auth/login", body: object{"identifier": "{owner.email}", "password": "{owner.password}"}, status: 200, fields: tokens + "user.id:int user.username:string user.full_name:string user.email:string", save: saved{"owner.token": "tokens.access", "owner.refresh": "tokens.refresh", "owner.id": "user.id"}},

	// An account by phone.
	{operation: "POST /auth/signup", body: object{"full_name": "Pia {n}", "primary_mobile": "{phone}"}, status: 201, fields: "message:string primary_mobile:string={phone}"},
	{operation: "POST /auth/signup", body: object{"full_name": "Pia {n}", "primary_mobile": "0152"}, status: 422, fields: "errors[].field:primary_mobile"},
	{operation: "POST /auth/resent-otp", prepare: sms("{phone}"), body: object{"primary_mobile": "{phone}"}, status: 200, fields: "message:string"},
	{operation: "POST /auth/verify-otp", prepare: sms("{phone}"), body: object{"primary_mobile": "{phone}", "otp": "{code}"}, status: 200, fields: "message:string primary_mobile:string={phone}"},
	{operation: "POST /auth/finalize-signin", body: object{"primary_mobile": "{phone}", "email": "pia{n}@acme.example", "password": "short"}, status: 422, fields: "errors[].field:password"},
	{operation: "POST /auth/finalize-signin", body: object{"primary_mobile": "{phone}", "email": "pia{n}@acme.example", "password": password}, status: 201, fields: "message:string" + tokens, save: saved{"pia.token": "tokens.access"}},
	{operation: "POST /auth/signup", body: object{"full_name": "Ben {n}", "primary_mobile": "{phone2}"}, status: 201, fields: "message:string"},
	{operation: "POST /auth/resend-otp", prepare: sms("{phone2}"), body: object{"primary_mobile": "{phone2}"}, status: 200, fields: "message:string"},
	{operation: "POST /auth/verify-otp", body: object{"primary_mobile": "{phone2}", "otp": "{code}"}, status: 422},
	{operation: "POST /auth/verify-otp", prepare: sms("{phone2}"), body: object{"primary_mobile": "{phone2}", "otp": "{code}"}, status: 200},
	{operation: "POST /auth/finalize-signup", body: object{"primary_mobile": "{phone2}", "email": "ben{n}@acme.example", "password": password}, status: 201, fields: tokens, save: saved{"ben.token": "tokens.access"}},

	// Three kinds of identifier, and tokens that rotate.
	{operation: "POST /auth/login", body: object{"identifier": "{phone}", "password": password, "remember_me": true}, status: 200, fields: tokens, save: saved{"pia.token": "tokens.access", "pia.refresh": "tokens.refresh", "pia.id": "user.id", "pia.username": "user.username"}},
	{operation: "POST /auth/login", body: object{"identifier": "{pia.username}", "password": password}, status: 200, fields: tokens},
	{operation: "POST /auth/token/refresh", body: object{"refresh": "{pia.refresh}"}, status: 200, fields: "access:string refresh:string", save: saved{"pia.token": "access"}},
	{operation: "POST /auth/token/refresh", body: object{"refresh": "not-a-token"}, status: 401},

	// The second factor.
	{operation: "POST /auth/settings_enable-2fa", as: "pia", body: object{"method": "carrier pigeon"}, status: 422, fields: "errors[].field:method"},
	{operation: "POST /auth/settings_enable-2fa", as: "pia", body: object{"method": "totp"}, status: 200, fields: "secret:string qr_code:string backup_codes:list", save: saved{"secret": "secret", "backup": "backup_codes[]"}},
	{operation: "POST /auth/2fa/confirm", as: "pia", prepare: oneTime("{secret}", -1), body: object{"code": "{code}"}, status: 200},
	{operation: "POST /auth/login", body: object{"identifier": "pia{n}@acme.example", "password": password}, status: 200, fields: "requires_2fa:bool=true session_id:string", save: saved{"challenge": "session_id"}},
	{operation: "POST /auth/login-2fa-verify-code", body: object{"session_id": "{challenge}", "code": "{code}"}, status: 401},
	{operation: "POST /auth/login-2fa-verify-code", prepare: oneTime("{secret}", 0), body: object{"session_id": "{challenge}", "code": "{code}"}, status: 200, fields: tokens, save: saved{"pia.token": "tokens.access"}},
	{operation: "POST /auth/login", body: object{"identifier": "pia{n}@acme.example", "password": password}, status: 200, fields: "requires_2fa:bool=true", save: saved{"challenge": "session_id"}},
	{operation: "POST /auth/login-2fa-verify-backup", body: object{"session_id": "{challenge}", "backup_code": "{backup}"}, status: 200, fields: tokens, save: saved{"pia.token": "tokens.access"}},
	{operation: "POST /auth/2fa/backup-codes", as: "pia", prepare: oneTime("{secret}", 1), body: object{"code": "{code}"}, status: 200, fields: "backup_codes:list", save: saved{"backup": "backup_codes[]"}},
	{operation: "POST /auth/2fa/disable", as: "pia", body: object{"password": password, "backup_code": "{backup}"}, status: 200},

	{operation: "POST /auth/settings_enable-2fa", as: "ben", body: object{"method": "sms"}, status: 200, fields: "backup_codes:list"},
	{operation: "POST /auth/2fa/confirm", as: "ben", prepare: sms("{phone2}"), body: object{"code": "{code}"}, status: 200},
	{operation: "POST /auth/2fa/send-code", as: "ben", status: 200, fields: "message:string"},
	{operation: "POST /auth/2fa/disable", as: "ben", prepare: sms("{phone2}"), body: object{"password": password, "code": "{code}"}, status: 200},

	// Passwords.
	{operation: "POST /auth/password/forgot", body: object{"email": "nobody{n}@acme.example"}, status: 200},
	{operation: "POST /auth/password/forgot", body: object{"email": "ben{n}@acme.example"}, status: 200},
	{operation: "POST /auth/password/reset", prepare: mail("ben{n}@acme.example", "reset", link), body: object{"token": "{reset}", "password": password2}, status: 200},
	{operation: "POST /auth/password/reset", body: object{"token": "{reset}", "password": password2}, status: 422},
	{operation: "POST /auth/login", body: object{"identifier": "ben{n}@acme.example", "password": password2}, status: 200, fields: tokens, save: saved{"ben.token": "tokens.access", "ben.id": "user.id"}},

	// Devices.
	{operation: "GET /auth/sessions", as: "pia", status: 200, fields: list + "results[].id:string results[].current:bool results[].last_used_at:time", save: saved{"session": "results[].id"}},
	{operation: "DELETE /auth/sessions/{id}", as: "ben", path: "/auth/sessions/{session}", status: 404},
}

var accountRows = []row{
	{operation: "GET /account/me", as: "pia", status: 200, fields: profile + entity},
	{operation: "GET /account/profile", as: "pia", status: 200, fields: profile + entity},
	{operation: "PATCH /account/profile", as: "pia", body: object{"full_name": "Pia Renamed {n}"}, status: 200, fields: profile},
	{operation: "PUT /account/profile", as: "pia", body: object{"full_name": "Pia {n}", "email": "pia{n}@acme.example"}, status: 200, fields: profile},
	{operation: "PATCH /account/profile", as: "pia", body: object{"is_active": false}, status: 422},
	{operation: "POST /account/email/verify", as: "pia", status: 200},
	{operation: "POST /account/phone/verify", as: "ben", status: 409},
	{operation: "POST /account/change-password", as: "ben", body: object{"current_password": password, "new_password": password2}, status: 422},
	{operation: "POST /account/change-password", as: "ben", body: object{"current_password": password2, "new_password": password + " three"}, status: 200},
	{operation: "GET /account/login-activity", as: "pia", status: 200, fields: list + "results[].action:string results[].created_at:time"},
	{operation: "GET /account/session-test", as: "pia", status: 200, fields: "user:int|object token_expires_at:time"},
	{operation: "GET /account/session-tests", as: "pia", status: 200, fields: "token_expires_at:time"},
	{operation: "POST /account/register", body: object{"full_name": "Max {n}", "email": "max{n}@acme.example", "password": password, "primary_mobile": "{phone3}"}, status: 201, fields: tokens + "user.id:int", save: saved{"max.token": "tokens.access", "max.id": "user.id"}},
	{operation: "POST /account/phone/verify", as: "max", status: 200, fields: "message:string"},
	{operation: "POST /account/phone/verify", as: "max", prepare: sms("{phone3}"), body: object{"code": "{code}"}, status: 200},
	{operation: "POST /account/register", body: object{"full_name": "Max {n}", "email": "max{n}@acme.example", "password": password}, status: 409, fields: "errors[].field:email"},
}

var companyRows = []row{
	{operation: "POST /company", as: "owner", body: object{"name": "Branch {n}", "description": "d", "address": "a", "is_parent_company": true}, status: 201, fields: company + entity + " settings.default_language:string=en settings.default_currency:string=USD settings.timezone:string=UTC", save: saved{"company": "id"}},
	{operation: "POST /company", as: "owner", body: object{"name": "Sub {n}", "parent_company": "{company}"}, status: 201, fields: company, save: saved{"sub": "id"}},
	{operation: "POST /company", as: "owner", body: object{"name": "x", "surprise": 1}, status: 422, fields: "errors[].field:surprise"},
	{operation: "POST /company", as: "pia", body: object{"name": "x", "parent_company": "{company}"}, status: 422, fields: "errors[].field:parent_company"},
	{operation: "GET /company", as: "owner", path: "/company?page_size=1", status: 200, fields: list + "next:string results[].id:int results[].name:string results[].logo:string? results[].status:string results[].is_parent_company:bool"},
	{operation: "GET /company", as: "pia", status: 200, fields: list + "count:int=0"},
	{operation: "GET /company/{id}", as: "owner", path: "/company/{company}", status: 200, fields: company, save: saved{"etag": "header ETag"}},
	{operation: "GET /company/{id}", as: "pia", path: "/company/{company}", status: 404},
	{operation: "PATCH /company/{id}", as: "owner", path: "/company/{company}", header: object{"If-Match": "{etag}"}, body: object{"description": "changed"}, status: 200, fields: company + " description:string=changed"},
	{operation: "PATCH /company/{id}", as: "owner", path: "/company/{company}", header: object{"If-Match": "{etag}"}, body: object{"description": "again"}, status: 412},
	{operation: "PATCH /company/{id}", as: "owner", path: "/company/{company}", body: object{"parent_company": "{sub}"}, status: 409},
	{operation: "PUT /company/{id}", as: "owner", path: "/company/{company}", body: object{"name": "Branch {n}", "description": "put"}, status: 200, fields: company},
	{operation: "GET /company/{id}/tree", as: "owner", path: "/company/{company}/tree", status: 200},
	{operation: "GET /company/{id}/settings", as: "owner", path: "/company/{company}/settings", status: 200, fields: settings + entity},
	{operation: "PUT /company/{id}/settings", as: "owner", path: "/company/{company}/settings", body: object{"default_language": "de", "default_currency": "EUR", "timezone": "Europe/Berlin", "fiscal_year_start_month": 4, "feature_flags": object{"beta": true}}, status: 200, fields: settings},
	{operation: "PATCH /company/{id}/settings", as: "owner", path: "/company/{company}/settings", body: object{"timezone": "Mars/Base"}, status: 422, fields: "errors[].field:timezone"},
	{operation: "PATCH /company/{id}/settings", as: "owner", path: "/company/{company}/settings", body: object{"fiscal_year_start_month": 7}, status: 200, fields: settings + " fiscal_year_start_month:int=7"},
	{operation: "PATCH /company/{id}", as: "owner", path: "/company/{company}", body: object{"status": "deactivated"}, status: 200, fields: "status:deactivated"},
	{operation: "PATCH /company/{id}", as: "owner", path: "/company/{sub}", body: object{"description": "under a deactivated one"}, status: 409},
	{operation: "PATCH /company/{id}", as: "owner", path: "/company/{company}", body: object{"status": "active"}, status: 200, fields: "status:active"},
	{operation: "GET /company/{id}/roles", as: "owner", path: "/company/{company}/roles", status: 200, fields: list + "results[].id:int results[].role:string"},
	{operation: "POST /company/{id}/roles", as: "owner", path: "/company/{company}/roles", body: object{"role": "Clerk {n}", "desc": "files things"}, status: 201, fields: "id:int role:string desc:string company:int is_system_role:bool=false", save: saved{"clerk": "id"}},
}

var accessRows = []row{
	// Permissions and roles.
	{operation: "GET /access-control/permissions", as: "owner", status: 200, fields: list + "results[].id:int results[].code:string results[].module:string results[].description:string"},
	{operation: "POST /access-control/permissions", as: "owner", body: object{"code": "invoice{n}.send", "module": "invoice{n}", "description": "Send invoices"}, status: 201, fields: "id:int code:string module:string description:string" + entity, save: saved{"permission": "id"}},
	{operation: "POST /access-control/permissions", as: "owner", body: object{"code": "Not A Code", "module": "x"}, status: 422, fields: "errors[].field:code"},
	{operation: "GET /access-control/permissions/{id}", as: "owner", path: "/access-control/permissions/{permission}", status: 200, fields: "id:int code:string"},
	{operation: "PUT /access-control/permissions/{id}", as: "owner", path: "/access-control/permissions/{permission}", body: object{"code": "invoice{n}.send", "module": "invoice{n}", "description": "put"}, status: 200},
	{operation: "PATCH /access-control/permissions/{id}", as: "owner", path: "/access-control/permissions/{permission}", body: object{"description": "Send invoices to customers"}, status: 200, fields: "description:string"},
	{operation: "GET /access-control/roles", as: "owner", path: "/access-control/roles?page_size=100", status: 200, fields: list + "results[].id:int results[].role:string results[].desc:string results[].company:int? results[].is_system_role:bool", save: saved{"anyrole": "results[].id"}},
	{operation: "POST /access-control/roles", as: "owner", body: object{"role": "Auditor {n}", "desc": "reads", "company": "{company}"}, status: 201, fields: "id:int role:string desc:string company:int={company}" + entity, save: saved{"role": "id"}},
	{operation: "POST /access-control/roles", as: "owner", body: object{"role": "Temp {n}", "desc": "goes", "company": "{company}"}, status: 201, save: saved{"temp": "id"}},
	{operation: "POST /access-control/roles", as: "pia", body: object{"role": "Evil {n}", "desc": "", "company": "{company}"}, status: 404},
	{operation: "GET /access-control/roles/{id}", as: "owner", path: "/access-control/roles/{role}", status: 200, fields: "id:int", save: saved{"etag": "header ETag"}},
	{operation: "PUT /access-control/roles/{id}", as: "owner", path: "/access-control/roles/{role}", header: object{"If-Match": "{etag}"}, body: object{"role": "Auditor {n}", "desc": "reads it all", "company": "{company}"}, status: 200},
	{operation: "PATCH /access-control/roles/{id}", as: "owner", path: "/access-control/roles/{role}", header: object{"If-Match": "{etag}"}, body: object{"desc": "late"}, status: 412},
	{operation: "PATCH /access-control/roles/{id}", as: "owner", path: "/access-control/roles/{role}", body: object{"desc": "reads all of it"}, status: 200},
	{operation: "DELETE /access-control/roles/{id}", as: "owner", path: "/access-control/roles/{temp}", status: 204},
	{operation: "POST /access-control/roles/{id}/permissions", as: "owner", path: "/access-control/roles/{role}/permissions", body: object{"code": "company.read", "granted": true}, status: 201},
	{operation: "POST /access-control/roles/{id}/permissions", as: "owner", path: "/access-control/roles/{role}/permissions", body: object{"permission": "{permission}", "granted": false}, status: 201},
	{operation: "GET /access-control/roles/{id}/permissions", as: "owner", path: "/access-control/roles/{role}/permissions", status: 200, fields: list},
	{operation: "DELETE /access-control/roles/{id}/permissions", as: "owner", path: "/access-control/roles/{role}/permissions?permission={permission}", status: 204},
	{operation: "GET /access-control/role-permissions", as: "owner", path: "/access-control/role-permissions?role={role}", status: 200, fields: list + "results[].id:int results[].granted:bool"},
	{operation: "POST /access-control/role-permissions", as: "owner", body: object{"role": "{role}", "permission": "{permission}", "granted": true}, status: 201, fields: "id:int granted:bool=true", save: saved{"rp": "id"}},
	{operation: "GET /access-control/role-permissions/{id}", as: "owner", path: "/access-control/role-permissions/{rp}", status: 200},
	{operation: "PUT /access-control/role-permissions/{id}", as: "owner", path: "/access-control/role-permissions/{rp}", body: object{"role": "{role}", "permission": "{permission}", "granted": false}, status: 200, fields: "granted:bool=false"},
	{operation: "DELETE /access-control/role-permissions/{id}", as: "owner", path: "/access-control/role-permissions/{rp}", status: 204},

	// Invitations: invite, accept, and what may go otherwise.
	{operation: "POST /company/{id}/invite", as: "owner", path: "/company/{company}/invite", body: object{"email": "pia{n}@acme.example", "role": "{role}"}, status: 201, fields: invited, save: saved{"invitation": "id"}},
	{operation: "POST /company/{id}/invite", as: "owner", path: "/company/{company}/invite", body: object{"email": "pia{n}@acme.example", "role": "{role}"}, status: 409},
	{operation: "GET /company/{id}/invitations", as: "owner", path: "/company/{company}/invitations", status: 200, fields: list + "results[].id:int results[].status:pending"},
	{operation: "POST /access-control/invitations/accept", as: "max", prepare: mail("pia{n}@acme.example", "invite", link), body: object{"token": "{invite}"}, status: 403},
	{operation: "POST /access-control/invitations/accept", as: "pia", body: object{"token": "{invite}"}, status: 200, fields: "detail:string"},
	{operation: "GET /company/{id}", as: "pia", path: "/company/{company}", status: 200, fields: company},
	{operation: "PATCH /company/{id}", as: "pia", path: "/company/{company}", body: object{"name": "Mine"}, status: 403},
	{operation: "POST /access-control/invitations", as: "owner", body: object{"email": "zoe{n}@acme.example", "company": "{company}", "role": "{role}"}, status: 201, fields: invited + "token:string", save: saved{"invitation": "id", "zoe.invite": "token"}},
	{operation: "GET /access-control/invitations", as: "owner", path: "/access-control/invitations?company={company}&status=pending", status: 200, fields: list + "results[].id:int"},
	{operation: "GET /access-control/invitations/{id}", as: "owner", path: "/access-control/invitations/{invitation}", status: 200, fields: invited},
	{operation: "POST /access-control/invitations/{id}/resend", as: "owner", path: "/access-control/invitations/{invitation}/resend", status: 200, fields: "detail:string"},
	{operation: "POST /account/register", body: object{"full_name": "Zoe {n}", "email": "zoe{n}@acme.example", "password": password, "invitation_token": "{zoe.invite}"}, status: 422},
	{operation: "POST /access-control/invitations/{id}/revoke", as: "owner", path: "/access-control/invitations/{invitation}/revoke", status: 200, fields: "detail:string"},
	{operation: "DELETE /access-control/invitations/{id}", as: "owner", path: "/access-control/invitations/{invitation}", status: 204},
	{operation: "POST /access-control/invitations", as: "owner", body: object{"email": "ida{n}@acme.example", "company": "{company}", "role": "{role}"}, status: 201, save: saved{"ida.invite": "token"}},
	{operation: "POST /account/register", body: object{"full_name": "Ida {n}", "email": "ida{n}@acme.example", "password": password, "invitation_token": "{ida.invite}"}, status: 201, fields: tokens, save: saved{"ida.token": "tokens.access", "ida.id": "user.id"}},
	{operation: "GET /company/{id}", as: "ida", path: "/company/{company}", status: 200},

	// Memberships and assignments.
	{operation: "POST /access-control/user-companies", as: "owner", body: object{"user": "{max.id}", "company": "{company}"}, status: 201, fields: "id:int user:int|object company:int|object is_active:bool is_primary_company:bool joined_at:time", save: saved{"membership": "id"}},
	{operation: "GET /access-control/user-companies", as: "owner", path: "/access-control/user-companies?company={company}", status: 200, fields: list + "results[].id:int"},
	{operation: "GET /access-control/user-companies/{id}", as: "owner", path: "/access-control/user-companies/{membership}", status: 200, fields: "id:int"},
	{operation: "PUT /access-control/user-companies/{id}", as: "owner", path: "/access-control/user-companies/{membership}", body: object{"user": "{max.id}", "company": "{company}", "is_active": true, "is_primary_company": true}, status: 200},
	{operation: "POST /access-control/user-company-roles", as: "owner", body: object{"user_company": "{membership}", "role": "{role}"}, status: 201, fields: "id:int user_company:object role:object assigned_at:time", save: saved{"assignment": "id"}},
	{operation: "GET /access-control/user-company-roles", as: "owner", path: "/access-control/user-company-roles?company={company}", status: 200, fields: list + "results[].user_company:object results[].role:object"},
	{operation: "GET /access-control/user-company-roles/{id}", as: "owner", path: "/access-control/user-company-roles/{assignment}", status: 200, fields: "user_company.id:int role.id:int"},
	{operation: "PUT /access-control/user-company-roles/{id}", as: "owner", path: "/access-control/user-company-roles/{assignment}", body: object{"user_company": "{membership}", "role": "{role}", "scope": "self"}, status: 200},
	{operation: "GET /access-control/effective", as: "owner", path: "/access-control/effective?user={max.id}&company={company}", status: 200, fields: "permissions:list permissions[]:company.read"},
	{operation: "GET /access-control/explain", as: "owner", path: "/access-control/explain?user={max.id}&company={company}&permission=company.delete", status: 200, fields: "allowed:bool=false"},
	{operation: "GET /access-control/explain", as: "owner", path: "/access-control/explain?user={max.id}&company={company}&permission=company.read", status: 200, fields: "allowed:bool=true"},
	{operation: "DELETE /access-control/user-company-roles/{id}", as: "owner", path: "/access-control/user-company-roles/{assignment}", status: 204},
	{operation: "GET /company/{id}/members", as: "owner", path: "/company/{company}/members", status: 200, fields: list},
	{operation: "PATCH /company/{id}/members/{user_id}", as: "owner", path: "/company/{company}/members/{max.id}", body: object{"is_active": true}, status: 200},
	{operation: "DELETE /company/{id}/members/{user_id}", as: "owner", path: "/company/{company}/members/{owner.id}", status: 409},
	{operation: "DELETE /company/{id}/members/{user_id}", as: "owner", path: "/company/{company}/members/{ida.id}", status: 204},
	{operation: "GET /company/{id}", as: "ida", path: "/company/{company}", status: 404},
	{operation: "DELETE /access-control/user-companies/{id}", as: "owner", path: "/access-control/user-companies/{membership}", status: 204},
	{operation: "DELETE /access-control/permissions/{id}", as: "owner", path: "/access-control/permissions/{permission}", status: 204},

	// Users, as administrators see them.
	{operation: "GET /account/users", as: "owner", path: "/account/users?company={company}", status: 200, fields: list + "results[].id:int results[].username:string results[].full_name:string results[].email:string results[].primary_mobile:string? results[].is_active:bool results[].date_joined:time"},
	{operation: "GET /account/users/{id}", as: "owner", path: "/account/users/{pia.id}", status: 200, fields: someone},
	{operation: "GET /account/users/{id}", as: "max", path: "/account/users/{pia.id}", status: 404},
	{operation: "PATCH /account/users/{id}", as: "owner", path: "/account/users/{pia.id}", body: object{"full_name": "Pia by an administrator"}, status: 200, fields: someone},
	{operation: "POST /account/users/{id}/deactivate", as: "owner", path: "/account/users/{ida.id}/deactivate", status: 200},
	{operation: "GET /account/me", as: "ida", status: 401},
}

var organizationRows = []row{
	{operation: "POST /organization/departments", as: "owner", body: object{"company": "{company}", "name": "Sales {n}", "code": "S{n}"}, status: 201, fields: "id:int name:string company:int" + entity, save: saved{"department": "id"}},
	{operation: "POST /organization/departments", as: "owner", body: object{"company": "{company}", "name": "Field {n}", "code": "F{n}", "parent_department": "{department}"}, status: 201, save: saved{"subdepartment": "id"}},
	{operation: "GET /organization/departments", as: "owner", path: "/organization/departments?company={company}", status: 200, fields: list + "results[].id:int"},
	{operation: "GET /organization/departments/{id}", as: "owner", path: "/organization/departments/{department}", status: 200, fields: "id:int"},
	{operation: "PUT /organization/departments/{id}", as: "owner", path: "/organization/departments/{department}", body: object{"name": "Sales {n}", "code": "S{n}"}, status: 200},
	{operation: "PATCH /organization/departments/{id}", as: "owner", path: "/organization/departments/{department}", body: object{"parent_department": "{subdepartment}"}, status: 422, fields: "errors[].field:parent_department"},
	{operation: "PATCH /organization/departments/{id}", as: "owner", path: "/organization/departments/{department}", body: object{"name": "Sales and more {n}"}, status: 200},
	{operation: "POST /organization/job-titles", as: "owner", body: object{"company": "{company}", "name": "Seller {n}"}, status: 201, save: saved{"title": "id"}},
	{operation: "GET /organization/job-titles", as: "owner", path: "/organization/job-titles?company={company}", status: 200, fields: list},
	{operation: "GET /organization/job-titles/{id}", as: "owner", path: "/organization/job-titles/{title}", status: 200},
	{operation: "PUT /organization/job-titles/{id}", as: "owner", path: "/organization/job-titles/{title}", body: object{"name": "Seller {n}"}, status: 200},
	{operation: "PATCH /organization/job-titles/{id}", as: "owner", path: "/organization/job-titles/{title}", body: object{"name": "Senior seller {n}"}, status: 200},
	{operation: "POST /organization/locations", as: "owner", body: object{"company": "{company}", "name": "Harbour {n}"}, status: 201, save: saved{"location": "id"}},
	{operation: "GET /organization/locations", as: "owner", path: "/organization/locations?company={company}", status: 200, fields: list},
	{operation: "GET /organization/locations/{id}", as: "owner", path: "/organization/locations/{location}", status: 200},
	{operation: "PUT /organization/locations/{id}", as: "owner", path: "/organization/locations/{location}", body: object{"name": "Harbour {n}"}, status: 200},
	{operation: "PATCH /organization/locations/{id}", as: "owner", path: "/organization/locations/{location}", body: object{"name": "New harbour {n}"}, status: 200},
	{operation: "POST /organization/positions", as: "owner", body: object{"company": "{company}", "name": "Head of sales {n}", "department": "{department}", "job_title": "{title}", "location": "{location}"}, status: 201, fields: "id:int department:int job_title:int location:int? reports_to:int?", save: saved{"head": "id"}},
	{operation: "POST /organization/positions", as: "owner", body: object{"company": "{company}", "name": "Seller {n}", "department": "{subdepartment}", "job_title": "{title}", "reports_to": "{head}"}, status: 201, save: saved{"seller": "id"}},
	{operation: "PATCH /organization/positions/{id}", as: "owner", path: "/organization/positions/{head}", body: object{"reports_to": "{seller}"}, status: 422, fields: "errors[].field:reports_to"},
	{operation: "PATCH /organization/positions/{id}", as: "owner", path: "/organization/positions/{seller}", body: object{"department": "{department}"}, status: 200},
	{operation: "GET /organization/positions", as: "owner", path: "/organization/positions?company={company}", status: 200, fields: list},
	{operation: "GET /organization/positions/{id}", as: "owner", path: "/organization/positions/{head}", status: 200},
	{operation: "PUT /organization/positions/{id}", as: "owner", path: "/organization/positions/{head}", body: object{"name": "Head of sales {n}", "department": "{department}", "job_title": "{title}"}, status: 200},
	{operation: "GET /organization/chart", as: "owner", path: "/organization/chart?company={company}", status: 200},
	{operation: "GET /organization/chart", as: "max", path: "/organization/chart?company={company}", status: 404},
	{operation: "DELETE /organization/departments/{id}", as: "owner", path: "/organization/departments/{department}", status: 409},
	{operation: "DELETE /organization/positions/{id}", as: "owner", path: "/organization/positions/{seller}", status: 204},
	{operation: "DELETE /organization/positions/{id}", as: "owner", path: "/organization/positions/{head}", status: 204},
	{operation: "DELETE /organization/departments/{id}", as: "owner", path: "/organization/departments/{subdepartment}", status: 204},
	{operation: "DELETE /organization/job-titles/{id}", as: "owner", path: "/organization/job-titles/{title}", status: 204},
	{operation: "DELETE /organization/locations/{id}", as: "owner", path: "/organization/locations/{location}", status: 204},
}

const logged = " results[].id:int results[].user:int? results[].user_display:string results[].company:int? results[].date:int results[].entity_type:string results[].entity_id:int? results[].action:string results[].old_values:object? results[].new_values:object? results[].ip_address:string? results[].created_at:time "

var auditRows = []row{
	{operation: "GET /audit/activity-logs", as: "owner", path: "/audit/activity-logs?company={company}&entity=company&action=UPDATE", status: 200, fields: list + logged},
	{operation: "GET /audit/activity-logs", as: "owner", path: "/audit/activity-logs?from=yesterday", status: 422, fields: "errors[].field:from"},
	{operation: "GET /audit/activity-logs", as: "max", path: "/audit/activity-logs?company={company}", status: 404},
	{operation: "GET /audit/activity-logs/my", as: "owner", status: 200, fields: list + logged},
	{operation: "GET /audit/security-logs", as: "owner", status: 200, fields: list + "results[].id:int results[].user:int? results[].user_display:string results[].date:int results[].action:string results[].metadata:object results[].ip_address:string? results[].created_at:time"},
	{operation: "GET /audit/security-logs", as: "max", status: 403},
	{operation: "GET /audit/trends", as: "owner", path: "/audit/trends?company={company}&by=fiscal_period", status: 200},
	{operation: "GET /audit/trends", as: "owner", path: "/audit/trends?company={company}&by=day", status: 200},
	{operation: "GET /audit/verify", as: "owner", status: 200, fields: "valid:bool=true"},
	{operation: "GET /audit/notifications", as: "owner", path: "/audit/notifications?unread=true", status: 200, fields: "unread_count:int results:list results[].id:int results[].message:string results[].read:bool results[].created_at:time", save: saved{"notification": "results[].id"}},
	{operation: "POST /audit/notifications/mark-read", as: "owner", body: object{"notification_id": "{notification}"}, status: 200, fields: "detail:string"},
	{operation: "POST /notifications/mark-read", as: "max", body: object{"notification_id": "{notification}"}, status: 404},
	{operation: "POST /notifications/mark-read", as: "owner", body: object{"all": true}, status: 200, fields: "detail:string"},
	{operation: "GET /notifications/outbox", as: "owner", path: "/notifications/outbox?status=dead", status: 200, fields: list},
	{operation: "GET /notifications", as: "owner", path: "/notifications?unread=true", status: 200, fields: list + "unread_count:int=0"},
}

var machineRows = []row{
	{operation: "POST /account/api-keys", as: "owner", body: object{"name": "Exporter {n}", "permissions": []any{"company.read"}}, status: 201, fields: "id:int name:string key:string prefix:string expires_at:time", save: saved{"apikey": "id", "robot.token": "key"}},
	{operation: "POST /account/api-keys", as: "owner", body: object{"name": "Greedy {n}", "permissions": []any{"no.such"}}, status: 422},
	{operation: "GET /account/api-keys", as: "owner", status: 200, fields: list + "results[].id:int results[].name:string results[].prefix:string results[].last_used_at:time?"},
	{operation: "GET /company/{id}", as: "robot", path: "/company/{home}", prepare: home, status: 200},
	{operation: "PATCH /company/{id}", as: "robot", path: "/company/{home}", body: object{"name": "Robots"}, status: 403},
	{operation: "DELETE /account/api-keys/{id}", as: "owner", path: "/account/api-keys/{apikey}", status: 204},
	{operation: "GET /company", as: "robot", status: 401},
	{operation: "GET /account/support-access", as: "owner", status: 200, fields: "active:bool=false until:time? write:bool sessions:list"},
	{operation: "POST /auth/support-session", body: object{"code": "nobody-has-made-this-code-0000000000000000000"}, status: 401},
	{operation: "PUT /account/support-access", as: "owner", prepare: tomorrow, body: object{"until": "{tomorrow}", "write": false}, status: 200, fields: "until:time write:bool=false"},
	{operation: "PUT /account/support-access", as: "pia", prepare: tomorrow, body: object{"until": "{tomorrow}", "write": true}, status: 403},
	{operation: "DELETE /account/support-access", as: "owner", status: 204},
}

var goodbyeRows = []row{
	{operation: "DELETE /company/{id}", as: "owner", path: "/company/{company}", status: 409},
	{operation: "DELETE /company/{id}", as: "pia", path: "/company/{company}", status: 403},
	{operation: "DELETE /company/{id}", as: "owner", path: "/company/{sub}", status: 204},
	{operation: "DELETE /company/{id}", as: "owner", path: "/company/{company}", status: 204},
	{operation: "GET /company/{id}", as: "owner", path: "/company/{company}", status: 404},
	{operation: "GET /auth/sessions", as: "max", status: 200, fields: list, save: saved{"session": "results[].id"}},
	{operation: "DELETE /auth/sessions/{id}", as: "max", path: "/auth/sessions/{session}", status: 204},
	{operation: "GET /account/me", as: "max", status: 401},
	{operation: "POST /auth/logout", as: "pia", body: object{}, status: 205},
	{operation: "GET /account/me", as: "pia", status: 401},
}

// home saves the id of the tenant's first company.
func home(t *testing.T, w *world) {
	t.Helper()
	api := w.stack.TenantAPI(0, w.slug)
	api.Token = w.text(t, "{owner.token}")
	var page struct {
		Results []struct {
			ID float64 `json:"id"`
		} `json:"results"`
	}
	must(t, api.Want(t.Context(), 200, "GET", "/company?page_size=1", nil, &page))
	w.saved["home"] = page.Results[0].ID
}

func tomorrow(_ *testing.T, w *world) {
	w.saved["tomorrow"] = time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
}
