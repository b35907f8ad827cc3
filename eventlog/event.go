// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"encoding/hex"
	"fmt"
)

// Type says what an event records. The numbers are part of the wire format
// (event.proto) and are never reused.
type Type uint32

// All types of design, numbered for ever. Emitted reports which of them this
// build writes and understands; the others are reserved.
const (
	LogCreated           Type = 1
	EpochStarted         Type = 2
	AccountOpened        Type = 3
	AccountCredited      Type = 4
	MachineRegistered    Type = 5
	MachineReowned       Type = 6
	MachineRetired       Type = 7
	KeyIssued            Type = 8
	KeyRevoked           Type = 9
	PolicySet            Type = 10
	TransactionStarted   Type = 11
	TransactionCommitted Type = 12
	TransactionAborted   Type = 13
	BlockStored          Type = 14
	BlockDeleted         Type = 15
	StateRecorded        Type = 16
	HoldEntered          Type = 17
	HoldReleased         Type = 18
	WaiverGranted        Type = 19
	UsageMetered         Type = 20
	HistoryCleaned       Type = 21
	DrillCompleted       Type = 22
	RecoveryCompleted    Type = 23
)

var typeNames = [...]string{
	LogCreated: "log_created", EpochStarted: "epoch_started", AccountOpened: "account_opened",
	AccountCredited: "account_credited", MachineRegistered: "machine_registered", MachineReowned: "machine_reowned",
	MachineRetired: "machine_retired", KeyIssued: "key_issued", KeyRevoked: "key_revoked", PolicySet: "policy_set",
	TransactionStarted: "transaction_started", TransactionCommitted: "transaction_committed",
	TransactionAborted: "transaction_aborted", BlockStored: "block_stored", BlockDeleted: "block_deleted",
	StateRecorded: "state_recorded", HoldEntered: "hold_entered", HoldReleased: "hold_released",
	WaiverGranted: "waiver_granted", UsageMetered: "usage_metered", HistoryCleaned: "history_cleaned",
	DrillCompleted: "drill_completed", RecoveryCompleted: "recovery_completed",
}

// Types lists every reserved type, in order of its number.
func Types() []Type {
	types := make([]Type, 0, len(typeNames)-1)
	for t := LogCreated; int(t) < len(typeNames); t++ {
		types = append(types, t)
	}
	return types
}

// String returns the name of t as design and wire format spell it.
func (t Type) String() string {
	if t != 0 && int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type_%d", uint32(t))
}

// Emitted reports whether this build writes events of type t and knows what
// they mean. An event of any other type stops whoever must understand it.
func (t Type) Emitted() bool {
	switch t {
	case LogCreated, EpochStarted, AccountOpened, MachineRegistered, MachineReowned,
		BlockStored, BlockDeleted, StateRecorded, HoldReleased, WaiverGranted,
		DrillCompleted, RecoveryCompleted:
		return true
	case AccountCredited, MachineRetired, KeyIssued, KeyRevoked, PolicySet, TransactionStarted,
		TransactionCommitted, TransactionAborted, HoldEntered, UsageMetered,
		HistoryCleaned:
		return false
	}
	return false
}

// Kind is the class of a block, which decides when its store is answered and
// how its name is checked. The numbers are part of the wire format.
type Kind uint32

// The kinds of blocks.
const (
	KindData   Kind = 1 // backed-up content; named by its SHA-256
	KindIndex  Kind = 2 // says where content lies; named by its SHA-256
	KindRoot   Kind = 3 // what a finished backup hangs from; named by its SHA-256
	KindKey    Kind = 4 // an encrypted client key; named by its SHA-256
	KindLock   Kind = 5 // a client's claim on its machine; named by its SHA-256
	KindConfig Kind = 6 // the one unnamed block of a machine
)

var kindNames = [...]string{
	KindData: "data", KindIndex: "index", KindRoot: "root", KindKey: "key", KindLock: "lock", KindConfig: "config",
}

// String returns the name of k.
func (k Kind) String() string {
	if k.Valid() {
		return kindNames[k]
	}
	return fmt.Sprintf("kind_%d", uint32(k))
}

// Valid reports whether k is one of the kinds above.
func (k Kind) Valid() bool { return k >= KindData && k <= KindConfig }

// ID is a random 128-bit identity: of a log, a writer or a state directory.
// The zero ID is none.
type ID [16]byte

// String prints id in the UUID form, lower case.
func (id ID) String() string {
	text := hex.EncodeToString(id[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// MarshalText makes an ID print as String does in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the form that String prints.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// ParseID reads the UUID form that String prints.
func ParseID(text string) (ID, error) {
	var id ID
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return id, fmt.Errorf("identity %q: want 8-4-4-4-12 hexadecimal digits", text)
	}
	digits := text[:8] + text[9:13] + text[14:18] + text[19:23] + text[24:]
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return ID{}, fmt.Errorf("identity %q: %w", text, err)
	}
	return id, nil
}

// Event is one thing that happened. Which fields a type uses stands beside
// each field; the others are zero. The wire form is protobuf, published in
// event.proto; see AppendEvent and DecodeEvent.
//
// An event carries all that a projector needs, so applying one never reads a
// view: a delete names the store it undoes with its length and checksum, a
// re-owning names both accounts and the event that it succeeds.
type Event struct {
	Seq         Seq    // assigned by the writer
	Time        int64  // server's clock when it got its seq, nanoseconds since 1970 UTC; data, never an order
	Type        Type   //
	Account     Seq    // owner at the time; the seq of its account_opened (the event's own seq there)
	Machine     Seq    // the seq of its machine_registered (the event's own seq there)
	Transaction Seq    // the seq of its transaction_started; none yet
	Actor       string // who did it: "user:alice", "anonymous", "server", "operator"

	Name string // account_opened, machine_registered, machine_reowned: the name of the account or machine; waiver_granted: of the rule

	Kind     Kind   // block_stored, block_deleted
	Block    []byte // block_stored, block_deleted: the block's name, 32 bytes, empty for KindConfig; at most MaxBlockName
	Length   uint64 // block_stored, block_deleted: the payload's bytes
	Checksum uint32 // block_stored, block_deleted: CRC32C of the whole payload
	Reuses   Seq    // block_stored: the earlier block_stored whose payload this one has; 0 when it brings its own
	Undoes   Seq    // block_deleted: the block_stored that ends here

	Writer   ID          // epoch_started: the random id of the claim's writer
	Host     string      // epoch_started
	Cause    string      // epoch_started: "init", "start", "take-over"; hold_released, waiver_granted: why
	Previous Seq         // epoch_started: the cut, the last seq of older epochs that counts, 0 for none; machine_reowned: the event that made From the owner
	Lossy    bool        // epoch_started: something acknowledged may have been lost
	Barred   []Seq       // epoch_started: machines whose session was cut off by the loss
	LogID    ID          // log_created
	Format   uint32      // log_created: format version of the archive
	From, To Seq         // machine_reowned: accounts; waiver_granted: the first and the last event that may break the rule
	Views    []ViewState // state_recorded
	Recovery *Recovery   // recovery_completed, drill_completed
	Drill    *Drill      // drill_completed

	Unknown []byte // fields of later versions, kept as they came
}

// ViewState is one view's digest as of a seq, as a state_recorded carries it.
type ViewState struct {
	Name    string   // of the projector: "machine", "block"
	Version uint32   // of the projector; digests of different versions are not comparable
	Digest  [32]byte //
	AsOf    Seq      // the last event the digest includes
}
