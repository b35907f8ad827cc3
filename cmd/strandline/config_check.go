// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/strandline-project/strandline/archiver/dir"
)

// Each check below looks at one group of settings and returns one line that
// says what to write instead.

func (c *Config) checkData() error {
	if c.Data == "" {
		return errors.New("no state directory: write --data DIR")
	}
	return nil
}

// resolve is for the commands that make a state directory: it checks its path
// and the archive's address, and makes both independent of where the command
// was started. The address goes into the state, and serve starts elsewhere.
func (c *Config) resolve() error {
	for _, check := range []func() error{c.checkData, c.checkArchive} {
		if err := check(); err != nil {
			return withCode(exitUsage, err)
		}
	}
	var err error
	if c.Data, err = filepath.Abs(c.Data); err == nil {
		c.Archive, err = absolute(c.Archive)
	}
	return err
}

// absolute returns the archive address with a directory's path made absolute.
func absolute(address string) (string, error) {
	path, isDir := strings.CutPrefix(address, dir.Scheme)
	if !isDir {
		return address, nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("--archive %s: %w; write the whole path", address, err)
	}
	return dir.Scheme + path, nil
}

// checkArchive is for the commands that need an archive's address.
func (c *Config) checkArchive() error {
	switch scheme, rest, _ := strings.Cut(c.Archive, ":"); {
	case c.Archive == "":
		return usagef("no archive: write --archive dir:PATH, or --archive s3://BUCKET/PREFIX?endpoint=http://HOST:PORT")
	case scheme == "dir" && rest == "":
		return usagef("--archive dir: has no path: write --archive dir:PATH")
	case scheme == "s3":
		return c.checkS3()
	case scheme != "dir":
		return usagef("--archive %s: write --archive dir:%s for a directory, --archive s3://BUCKET/PREFIX?endpoint=URL for a bucket", c.Archive, c.Archive)
	}
	return nil
}

func (c *Config) checkS3() error {
	u, err := url.Parse(c.Archive)
	if err != nil || u.Host == "" {
		return usagef("--archive %s: write --archive s3://BUCKET/PREFIX?endpoint=http://HOST:PORT", withoutSecrets(c.Archive))
	}
	if u.User != nil {
		return usagef("--archive: credentials do not belong into the address, where every user of this machine can read them: " +
			"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the same with _FILE")
	}
	return nil
}

func (c *Config) checkAuth() error {
	switch {
	case c.NoAuth && c.HtpasswdFile != "":
		return errors.New("--no-auth and --htpasswd-file exclude each other: leave one of them out")
	case !c.NoAuth && c.HtpasswdFile == "":
		return errors.New("nobody could log in: write --htpasswd-file FILE (made by `htpasswd -B -c FILE USER`), or --no-auth to serve everybody")
	}
	return readable("htpasswd-file", c.HtpasswdFile)
}

func (c *Config) checkTLS() error {
	switch {
	case c.TLS && (c.TLSCert == "" || c.TLSKey == ""):
		return errors.New("--tls needs a certificate: write --tls --tls-cert FILE --tls-key FILE")
	case !c.TLS && (c.TLSCert != "" || c.TLSKey != ""):
		return errors.New("--tls-cert and --tls-key do nothing without --tls: write --tls --tls-cert FILE --tls-key FILE")
	}
	if err := readable("tls-cert", c.TLSCert); err != nil {
		return err
	}
	return readable("tls-key", c.TLSKey)
}

func (c *Config) checkNATS() error {
	switch {
	case c.NATSURL != "" && c.NATSListen != "":
		return errors.New("--nats uses a NATS server elsewhere, --nats-listen opens the built-in one: leave one of them out")
	case c.NATSCreds != "" && c.NATSURL == "":
		return errors.New("--nats-creds does nothing without --nats: write --nats nats://HOST:4222 --nats-creds FILE")
	case c.NATSPasswordFile != "" && c.NATSListen == "":
		return errors.New("--nats-password-file does nothing without --nats-listen: write --nats-listen HOST:4222 --nats-password-file FILE")
	case c.NATSURL == "":
		return readable("nats-password-file", c.NATSPasswordFile)
	}
	for _, one := range strings.Split(c.NATSURL, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || u.Host == "" {
			return fmt.Errorf("--nats %s: write --nats nats://HOST:4222", withoutSecrets(one))
		}
		if u.User != nil {
			return errors.New("--nats: credentials do not belong into the URL, where every user of this machine can read them: write --nats-creds FILE")
		}
	}
	return readable("nats-creds", c.NATSCreds)
}

func (c *Config) checkListeners() error {
	seen := map[Address]string{}
	for _, l := range []struct {
		name string
		addr Address
	}{{"listen", c.Listen}, {"admin", c.Admin}, {"nats-listen", c.NATSListen}} {
		if l.addr == "" && l.name != "nats-listen" {
			return fmt.Errorf("--%s is empty: write --%s 127.0.0.1:8000", l.name, l.name)
		}
		if other := seen[l.addr]; other != "" && l.addr != "" && !strings.HasSuffix(string(l.addr), ":0") {
			return fmt.Errorf("--%s and --%s are both %s: give each a port of its own", other, l.name, l.addr)
		}
		seen[l.addr] = l.name
	}
	return nil
}

const (
	maxAckTimeout = 4 * time.Minute // restic gives a request up after 5 minutes without progress
	maxMaxBody    = 4<<30 - 1       // rustic reads lengths as 32 bits
)

func (c *Config) checkLimits() error {
	switch {
	case c.AckTimeout <= 0 || c.AckTimeout > maxAckTimeout:
		return fmt.Errorf("--ack-timeout %s: write a duration between 1s and %s (clients give up after 5m)", c.AckTimeout, maxAckTimeout)
	case c.RecordEvery == 0:
		return errors.New("--record-every 0: write --record-every 65536, or any other number from 1 on")
	case c.MaxBody < 1<<20 || c.MaxBody > maxMaxBody:
		return fmt.Errorf("--max-body %s: write a size from 1MiB to just under 4GiB", c.MaxBody)
	case c.BodyMemory < 1<<20:
		return fmt.Errorf("--body-memory %s: write at least 1MiB", c.BodyMemory)
	case c.MaxBacklog < 64<<20:
		return fmt.Errorf("--max-backlog %s: write at least 64MiB, which is one object", c.MaxBacklog)
	}
	return nil
}

// mostCheckpoints bounds how many are kept: each recovery reads all manifests.
const mostCheckpoints = 1000

func (c *Config) checkCheckpoints() error {
	switch {
	case c.CheckpointEvery < 0 || c.CheckpointEvery > 0 && c.CheckpointEvery < time.Second:
		return fmt.Errorf("--checkpoint-every %s: write a duration from 1s on, such as 1h, or 0 for none by time", c.CheckpointEvery)
	case c.CheckpointEvents > 0 && c.CheckpointEvents < 1000:
		return fmt.Errorf("--checkpoint-events %d: write a number from 1000 on, or 0 for none by number", c.CheckpointEvents)
	case c.CheckpointKeep == 0 || c.CheckpointKeep > mostCheckpoints:
		return fmt.Errorf("--checkpoint-keep %d: write a number from 1 to %d", c.CheckpointKeep, mostCheckpoints)
	case c.CheckpointDays > mostCheckpoints:
		return fmt.Errorf("--checkpoint-days %d: write a number from 0 to %d", c.CheckpointDays, mostCheckpoints)
	}
	return nil
}

const (
	minDrillEvery = time.Minute // for trying out
	minDrillRate  = 64 << 10
	maxSample     = 1 << 20
)

func (c *Config) checkDrills() error {
	_, err := parseClock(c.DrillAt)
	switch {
	case err != nil:
		return fmt.Errorf("--drill-at %s: write a time of day such as 03:00", c.DrillAt)
	case c.DrillEvery != 0 && c.DrillEvery < minDrillEvery:
		return fmt.Errorf("--drill-every %s: write 24h, any other duration from %s on, or 0 for never", c.DrillEvery, minDrillEvery)
	case c.DrillRate < minDrillRate:
		return fmt.Errorf("--drill-read-rate %s: write 16MiB, or any other size from 64KiB on", c.DrillRate)
	case c.DrillSample > maxSample:
		return fmt.Errorf("--drill-sample %d: write a number up to %d", c.DrillSample, maxSample)
	}
	return nil
}

// readable makes sure that a file that a setting names can be opened.
func readable(setting, path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("--%s: %w: write --%s with a file that this user can read", setting, err, setting)
	}
	return f.Close()
}

// withoutSecrets is an address with its password struck out, also when it
// cannot be parsed.
func withoutSecrets(address string) string {
	at := strings.LastIndex(address, "@")
	if at < 0 {
		return address
	}
	scheme, _, ok := strings.Cut(address, "://")
	if !ok {
		return "xxxxx" + address[at:]
	}
	return scheme + "://xxxxx" + address[at:]
}
