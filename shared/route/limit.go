package route

import (
	"slices"
	"time"
)

// Limit is how often something may be done: Count times in a period, all at
// once or spread. A plan may change the count.
type Limit struct {
	Name  string // in a plan's "limits"
	Count int
	Per   time.Duration
}

// The limits and what they are by default. Those "per address" are of a
// client's address, those of somebody signed in of the user.
var (
	LimitLoginPerIdentifier   = Limit{"login_per_identifier", 5, time.Minute}
	LimitLoginPerAddress      = Limit{"login_per_address", 60, time.Minute}
	LimitSecondFactorPerLogin = Limit{"second_factor_per_login", 5, time.Minute}
	LimitOTPSendPerNumber     = Limit{"otp_send_per_number", 3, time.Hour}
	LimitOTPSendPerAddress    = Limit{"otp_send_per_address", 60, time.Hour}
	LimitOTPVerifyPerNumber   = Limit{"otp_verify_per_number", 5, time.Minute}
	LimitFinalizePerNumber    = Limit{"finalize_per_number", 3, time.Hour}
	LimitResetMailPerAccount  = Limit{"reset_mail_per_identifier", 3, time.Hour}
	LimitResetMailPerAddress  = Limit{"reset_mail_per_address", 60, time.Hour}
	LimitRefreshPerSession    = Limit{"refresh_per_session", 20, time.Minute}
	LimitEnable2FAPerUser     = Limit{"enable_2fa_per_user", 10, time.Hour}
	LimitAnonymousPerAddress  = Limit{"anonymous_per_address", 120, time.Minute}
	LimitSignedInPerUser      = Limit{"signed_in_per_user", 1200, time.Minute}
	LimitSMSPerDay            = Limit{"sms_per_day", 500, 24 * time.Hour}            // of a tenant, a day being UTC's
	LimitSMSPerPrefix         = Limit{"sms_per_prefix_per_day", 100, 24 * time.Hour} // and of numbers of one prefix
	limits                    = []Limit{
		LimitLoginPerIdentifier, LimitLoginPerAddress, LimitSecondFactorPerLogin, LimitOTPSendPerNumber, LimitOTPSendPerAddress,
		LimitOTPVerifyPerNumber, LimitFinalizePerNumber, LimitResetMailPerAccount, LimitResetMailPerAddress,
		LimitRefreshPerSession, LimitEnable2FAPerUser, LimitAnonymousPerAddress, LimitSignedInPerUser,
		LimitSMSPerDay, LimitSMSPerPrefix,
	}
)

// MaxLimit is the highest count that a plan may give.
const MaxLimit = 1_000_000

// QuotaUsers is how many users the tenant may have, where its plan refuses more. It
// travels among the limits, and is a number of things rather than of times.
const QuotaUsers = "users"

// storageExceeded says, by any count, that the tenant has more data than its plan
// grants, and that the plan refuses more.
const storageExceeded = "storage_exceeded"

// StorageExceeded tells whether nothing new may be added to the tenant's data.
func (s Settings) StorageExceeded() bool { return s.Limits[storageExceeded] > 0 }

// MaxUsers is how many users the tenant may have; 0: as many as it likes.
func (s Settings) MaxUsers() int { return s.Limits[QuotaUsers] }

// Limits are all of them, by name.
func Limits() []Limit {
	return slices.SortedFunc(slices.Values(limits), func(a, b Limit) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
}

// Limit is the limit as the tenant's plan has it.
func (s Settings) Limit(l Limit) Limit {
	if count := s.Limits[l.Name]; count >= 1 {
		l.Count = min(count, MaxLimit)
	}
	return l
}
