package backup

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/google/uuid"
)

// manifestFormat counts the changes of Manifest that older releases do not understand.
const manifestFormat = 1

// Manifest says what an archive is. It lies beside the archive, and in
// control.backups.
type Manifest struct {
	Format          int        `json:"format"`
	BackupID        uuid.UUID  `json:"backup_id"`
	TenantID        uuid.UUID  `json:"tenant_id"`
	Slug            string     `json:"slug"`
	Name            string     `json:"name"`
	Incarnation     int        `json:"incarnation"`
	Reason          string     `json:"reason"`
	SchemaVersion   int64      `json:"schema_version"`
	PostgresVersion int        `json:"postgres_version"` // server_version_num
	DumpMajor       int        `json:"dump_major"`       // of the pg_dump that wrote it
	TakenAt         time.Time  `json:"taken_at"`
	Size            int64      `json:"size"`        // of the sealed file, in bytes
	SHA256          string     `json:"sha256"`      // of the sealed file, in hex
	DumpSize        int64      `json:"dump_size"`   // of what is inside, in bytes
	DumpSHA256      string     `json:"dump_sha256"` // likewise
	Audit           *AuditHead `json:"audit"`       // nil: nothing was sealed yet
}

// AuditHead is the last seal of the audit chain in the database.
type AuditHead struct {
	TenantID  uuid.UUID `json:"tenant_id"` // whose chain it is
	Batch     int64     `json:"batch"`
	Head      string    `json:"head"` // hex
	Kid       string    `json:"kid"`
	Signature []byte    `json:"signature"`
}

// manifestOf is the name of the manifest beside an archive.
func manifestOf(object string) string { return object + ".json" }

// folder holds the archives of a tenant.
func folder(tenant uuid.UUID) string { return "tenants/" + tenant.String() }

// objectName is a new name for an archive: in the order of time, and not to be
// guessed by whoever may read single names of the storage.
func objectName(tenant uuid.UUID) string {
	var secret [16]byte
	_, _ = rand.Read(secret[:]) // never fails
	return folder(tenant) + "/" + time.Now().UTC().Format("20060102T150405.000Z") + "-" + hex.EncodeToString(secret[:]) + ".dump.age"
}
