// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"log/slog"
	"time"

	"github.com/strandline-project/strandline/internal/drill"
)

// Config is everything that `strandline serve` can be told, and its manual.
//
// Each field can be given, in order of precedence, as a flag (--max-size
// 10GiB), in the environment (STRANDLINE_MAX_SIZE=10GiB), in the YAML file
// named by --config or STRANDLINE_CONFIG (max-size: 10GiB), or not at all:
// then the default stands. The name tag is the flag's and the file's name, the
// usage tag the flag's help. A name that is unknown is refused everywhere.
//
// Sizes are bytes, with K, M, G, T (powers of 1000) or KiB, MiB, GiB, TiB;
// durations are like 50s or 2m; addresses are HOST:PORT. Secrets are never
// settings, because every user of a machine can read another's arguments: they
// are in the files that settings name, and the bucket's credentials are where
// package s3 looks for them (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the
// same with _FILE, a credentials directory, ~/.aws/credentials).
type Config struct {
	// Data is the state directory: the log, the views, the lock, and the
	// archive's address, which init wrote there. One server at a time.
	Data string `name:"data" usage:"state directory"`
	// Archive is where the log is kept: dir:PATH, or
	// s3://BUCKET/PREFIX?endpoint=http://HOST:PORT. init and recover need it;
	// serve takes it from the state directory.
	Archive string `name:"archive" usage:"archive: dir:PATH or s3://BUCKET/PREFIX?endpoint=URL"`

	// Listen is the address for backup clients, Admin the one for status,
	// health and metrics, which has no authentication: keep it on loopback.
	Listen Address `name:"listen" usage:"address for backup clients"`
	Admin  Address `name:"admin" usage:"address for status, health and metrics"`
	// AdminHosts are the host names, separated by commas, under which the admin
	// listener may be reached besides localhost and addresses.
	AdminHosts string `name:"admin-hosts" usage:"host names of the admin listener, separated by commas"`

	// NoAuth serves whoever can connect. Without it HtpasswdFile is needed:
	// lines of user:bcrypt-hash, read again when the file changes. A user
	// reaches the paths under its own name only.
	NoAuth       bool   `name:"no-auth" usage:"serve everybody, without passwords"`
	HtpasswdFile string `name:"htpasswd-file" usage:"users and their bcrypt hashes, as htpasswd -B writes them"`

	// TLS serves clients over HTTPS with TLSCert and TLSKey, both PEM files.
	TLS     bool   `name:"tls" usage:"serve HTTPS"`
	TLSCert string `name:"tls-cert" usage:"certificate file (PEM)"`
	TLSKey  string `name:"tls-key" usage:"key file of the certificate (PEM)"`

	// NATSURL is an existing server or cluster to publish events to, with the
	// credentials in NATSCreds. Without it a server inside this process is
	// used; NATSListen opens that one to other programs.
	NATSURL   string `name:"nats" usage:"URL of a NATS server to publish events to"`
	NATSCreds string `name:"nats-creds" usage:"credentials file for --nats"`
	// Consumers log in to it as "consumer" with the password in
	// NATSPasswordFile, which is needed beyond loopback, and can only subscribe.
	NATSListen       Address `name:"nats-listen" usage:"address to open the built-in NATS server on"`
	NATSPasswordFile string  `name:"nats-password-file" usage:"file with the password of consumers at --nats-listen"`

	// AppendOnly refuses every delete but those of locks.
	AppendOnly bool `name:"append-only" usage:"refuse deletes, except of locks"`
	// MaxSize is the quota of each account in bytes; 0 is none.
	MaxSize Size `name:"max-size" usage:"quota of each account; 0 is none"`

	// Ack is what an answer waits for. commit-points: locks, snapshots, index,
	// keys and config until archived, data until committed; archived:
	// everything until archived; committed: nothing until archived (a backup
	// may then be lost with the machine). AckTimeout is how long an answer
	// waits for the archive before it is a 503; nothing is lost by it.
	Ack        Ack           `name:"ack" usage:"what answers wait for: commit-points, archived or committed"`
	AckTimeout time.Duration `name:"ack-timeout" usage:"how long an answer waits for the archive"`

	// Hold claims nothing and writes nothing: reads only, locks in memory.
	Hold bool `name:"hold" usage:"serve reads, write nothing"`
	// TakeOver starts although another state directory served this log last
	// and did not end cleanly. That one will be fenced.
	TakeOver bool `name:"take-over" usage:"start although another server may still serve this log"`
	// SingleWriter is for a store without conditional PUT: you promise that no
	// second server ever uses this archive.
	SingleWriter bool `name:"single-writer" usage:"accept an archive store without put-if-absent"`

	// RecordEvery is how many events lie between two records of the views'
	// digests, against which a rebuild proves itself.
	RecordEvery uint64 `name:"record-every" usage:"events between two records of the views' digests"`

	// CheckpointEvery and CheckpointEvents say how often copies of the views
	// are put into the archive, for recoveries to begin with: after so long, if
	// anything changed, and after so many events; both 0 is never. A clean stop
	// takes one, too. The newest CheckpointKeep are kept, and of each of the
	// last CheckpointDays days the newest.
	CheckpointEvery  time.Duration `name:"checkpoint-every" usage:"time between two checkpoints of the views in the archive; 0 is not by time"`
	CheckpointEvents uint64        `name:"checkpoint-events" usage:"events between two checkpoints of the views; 0 is not by number"`
	CheckpointKeep   uint64        `name:"checkpoint-keep" usage:"checkpoints kept in the archive, the newest"`
	CheckpointDays   uint64        `name:"checkpoint-days" usage:"days of which the newest checkpoint is kept besides"`

	// BodyMemory is what bodies in flight may take of memory, all together;
	// the rest waits in files, which take at most 16 MiB more. MaxBody is the largest body that is accepted.
	BodyMemory Size `name:"body-memory" usage:"memory for bodies in flight"`
	MaxBody    Size `name:"max-body" usage:"largest body accepted"`
	// MaxBacklog is how much may wait for the archive before writes get 503.
	MaxBacklog Size `name:"max-backlog" usage:"most that may wait for the archive"`
	// MaxConnections is how many connections of clients are held at once. By
	// default half of the files that the process may have open, at most 4096.
	MaxConnections uint64 `name:"max-connections" usage:"connections of clients held at once"`
	// CacheSize is how much of the archived log is kept here to read from.
	CacheSize Size `name:"cache-size" usage:"archived log kept on this machine for reading"`

	// DrillEvery is how often a recovery is practised; 0 is never. From a day
	// on it is done within two hours after DrillAt, local time; more often, it
	// is done around the clock. DrillRate is how much a drill may read of the
	// archive, and half of what it may write to the disk; DrillSample how many
	// random blocks it reads back. DrillDir is where it builds the views that
	// it removes afterwards, by default in the state directory.
	DrillEvery  time.Duration `name:"drill-every" usage:"how often a recovery is practised; 0 is never"`
	DrillAt     string        `name:"drill-at" usage:"local time (HH:MM) within two hours after which it is practised"`
	DrillRate   Size          `name:"drill-read-rate" usage:"bytes a second that a drill may read from the archive"`
	DrillSample uint64        `name:"drill-sample" usage:"random blocks that a drill reads back"`
	DrillDir    string        `name:"drill-dir" usage:"directory that drills build in (default: in the state directory)"`

	// LogLevel is the least level that is logged.
	LogLevel slog.Level `name:"log-level" usage:"debug, info, warn or error"`
	// AccessLog is a file that gets a line for each request; "-" is standard
	// output, "" is none.
	AccessLog string `name:"access-log" usage:"file for a line per request; - is standard output"`
}

// defaultConfig is what stands where nothing is said.
func defaultConfig() Config {
	return Config{
		Listen:          "127.0.0.1:8000",
		Admin:           "127.0.0.1:8001",
		Ack:             AckCommitPoints,
		AckTimeout:      50 * time.Second, // under the minute after which proxies give up
		RecordEvery:     65536,
		CheckpointEvery: time.Hour,
		CheckpointKeep:  2,
		CheckpointDays:  7,
		BodyMemory:      256 << 20,
		MaxBody:         1 << 30,
		MaxBacklog:      8 << 30,
		MaxConnections:  defaultConnections(descriptors()),
		CacheSize:       4 << 30,
		DrillEvery:      24 * time.Hour,
		DrillAt:         "03:00",
		DrillRate:       16 << 20,
		DrillSample:     drill.DefaultSample,
		LogLevel:        slog.LevelInfo,
	}
}

// Ack says what answers to clients wait for, see Config.
type Ack string

// The values of Ack.
const (
	AckCommitPoints Ack = "commit-points"
	AckArchived     Ack = "archived"
	AckCommitted    Ack = "committed"
)

// checkServe returns an error, with what to write instead, unless c can be
// served with.
func (c *Config) checkServe() error {
	checks := []func() error{c.checkData, c.checkAuth, c.checkTLS, c.checkNATS, c.checkListeners, c.checkLimits, c.checkConnections, c.checkCheckpoints, c.checkDrills}
	for _, check := range checks {
		if err := check(); err != nil {
			return withCode(exitUsage, err)
		}
	}
	return nil
}
