package httpapi

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
)

type loginCodeInput struct {
	Body struct {
		SessionID string `json:"session_id" minLength:"1" maxLength:"256" doc:"From the login."`
		Code      string `json:"code" minLength:"1" maxLength:"16" doc:"Of the authenticator app, or of the SMS." example:"123456"`
	}
}

func (s *server) loginByCode(ctx context.Context, sc *scope, in *loginCodeInput) (*signedIn, error) {
	return s.finishLogin(ctx, sc, in.Body.SessionID, identity.Proof{Code: in.Body.Code})
}

type loginBackupInput struct {
	Body struct {
		SessionID  string `json:"session_id" minLength:"1" maxLength:"256" doc:"From the login."`
		BackupCode string `json:"backup_code" minLength:"1" maxLength:"64" doc:"One of the backup codes. It counts once."`
	}
}

func (s *server) loginByBackupCode(ctx context.Context, sc *scope, in *loginBackupInput) (*signedIn, error) {
	return s.finishLogin(ctx, sc, in.Body.SessionID, identity.Proof{BackupCode: in.Body.BackupCode})
}

func (s *server) finishLogin(ctx context.Context, sc *scope, sessionID string, proof identity.Proof) (*signedIn, error) {
	profile, tokens, err := s.Identity.FinishLogin(ctx, sc.tenant, sessionID, proof, sc.client)
	if err != nil {
		return nil, err
	}
	s.countLogin(sc)
	return sc.signedIn(profile, tokens), nil
}

type enable2FAInput struct {
	Body struct {
		Method     string `json:"method" enum:"totp,sms" doc:"totp: an authenticator app. sms: codes to one's own phone number." example:"totp"`
		Code       string `json:"code,omitempty" maxLength:"16" doc:"Of the factor that is to be replaced." example:"123456"`
		BackupCode string `json:"backup_code,omitempty" maxLength:"64" doc:"Instead of code."`
		Password   string `json:"password,omitempty" maxLength:"1024" format:"password" doc:"Instead of code."`
	}
}

type enable2FAOutput struct {
	Body struct {
		Message     string   `json:"message"`
		Secret      *string  `json:"secret" secret:"true" doc:"For an authenticator app, in base32; null for SMS." example:"JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"`
		QRCode      *string  `json:"qr_code" secret:"true" doc:"The same as an otpauth address, to draw a QR code of; null for SMS." example:"otpauth://totp/acme:jane@acme.example?algorithm=SHA1&digits=6&issuer=acme&period=30&secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"`
		BackupCodes []string `json:"backup_codes" secret:"true" doc:"Shown once. Each signs in once, should the factor be lost." example:"[\"ABCD-EFGH-IJKL-MNOP\"]"`
	}
}

func (s *server) enable2FA(ctx context.Context, c *caller, in *enable2FAInput) (*enable2FAOutput, error) {
	proof := identity.Proof{Code: in.Body.Code, BackupCode: in.Body.BackupCode}
	enrolment, err := s.Identity.EnableSecondFactor(ctx, c.tenant, c.Actor, in.Body.Method, proof, in.Body.Password, c.client)
	if err != nil {
		return nil, err
	}
	var out enable2FAOutput
	out.Body.BackupCodes = enrolment.BackupCodes
	if enrolment.Method == identity.SMS {
		out.Body.Message = "A code is on its way to your phone. The second factor counts once you have confirmed it with the code."
		return &out, nil
	}
	out.Body.Message = "Scan the QR code with an authenticator app. The second factor counts once you have confirmed it with a code of the app."
	out.Body.Secret, out.Body.QRCode = &enrolment.Secret, &enrolment.URL
	return &out, nil
}

type codeInput struct {
	Body struct {
		Code string `json:"code" minLength:"1" maxLength:"16" doc:"Of the authenticator app, or of the SMS." example:"123456"`
	}
}

type confirmed2FA struct {
	Body struct {
		Message      string `json:"message"`
		Is2FAEnabled bool   `json:"is_2fa_enabled" example:"true"`
		TwoFAType    string `json:"two_fa_type" example:"totp"`
	}
}

func (s *server) confirm2FA(ctx context.Context, c *caller, in *codeInput) (*confirmed2FA, error) {
	method, err := s.Identity.ConfirmSecondFactor(ctx, c.tenant, c.Actor, in.Body.Code, c.client)
	if err != nil {
		return nil, err
	}
	var out confirmed2FA
	out.Body.Message, out.Body.Is2FAEnabled, out.Body.TwoFAType = "The second factor counts from the next login on.", true, method
	return &out, nil
}

type disable2FAInput struct {
	Body struct {
		Password   string `json:"password" minLength:"1" maxLength:"1024" format:"password"`
		Code       string `json:"code,omitempty" maxLength:"16" doc:"Of the factor." example:"123456"`
		BackupCode string `json:"backup_code,omitempty" maxLength:"64" doc:"Instead of code."`
	}
}

func (s *server) disable2FA(ctx context.Context, c *caller, in *disable2FAInput) (*messageOutput, error) {
	proof := identity.Proof{Code: in.Body.Code, BackupCode: in.Body.BackupCode}
	if err := s.Identity.DisableSecondFactor(ctx, c.tenant, c.Actor, in.Body.Password, proof, c.client); err != nil {
		return nil, err
	}
	return message("Your account has no second factor any more."), nil
}

type backupCodesOutput struct {
	Body struct {
		BackupCodes []string `json:"backup_codes" secret:"true" doc:"Shown once. The ones before count no more." example:"[\"ABCD-EFGH-IJKL-MNOP\"]"`
	}
}

func (s *server) renewBackupCodes(ctx context.Context, c *caller, in *codeInput) (*backupCodesOutput, error) {
	codes, err := s.Identity.RenewBackupCodes(ctx, c.tenant, c.Actor, in.Body.Code, c.client)
	if err != nil {
		return nil, err
	}
	var out backupCodesOutput
	out.Body.BackupCodes = codes
	return &out, nil
}

func (s *server) send2FACode(ctx context.Context, tx pgx.Tx, c *caller, _ *struct{}) (*messageOutput, error) {
	if err := s.Identity.SendFactorCode(ctx, c.tenant, tx, c.Actor); err != nil {
		return nil, err
	}
	return message("A code is on its way to your phone. It counts for 5 minutes."), nil
}
