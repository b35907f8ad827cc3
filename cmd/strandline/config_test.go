// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// loaded runs a command that only loads its settings.
func loaded(t *testing.T, args ...string) (Config, error) {
	t.Helper()
	var got Config
	cmd := &cobra.Command{Use: "serve", SilenceErrors: true, SilenceUsage: true}
	cmd.SetFlagErrorFunc(explainFlag)
	loader := bindConfig(cmd)
	cmd.RunE = func(*cobra.Command, []string) (err error) { got, err = loader.load(); return err }
	cmd.SetArgs(args)
	err := cmd.Execute()
	return got, err
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "strandline.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNothingSaidMeansTheDefaults(t *testing.T) {
	got, err := loaded(t)
	if err != nil || got != defaultConfig() {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAFlagBeatsTheEnvironmentBeatsTheFileBeatsTheDefault(t *testing.T) {
	file := writeConfig(t, "max-size: 1MiB\nack: archived\nlisten: :7000\n")
	t.Setenv("STRANDLINE_MAX_SIZE", "2MiB")
	t.Setenv("STRANDLINE_ACK", "committed")
	got, err := loaded(t, "--config", file, "--max-size", "3MiB")
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.MaxSize, want.Ack, want.Listen = 3<<20, AckCommitted, ":7000"
	if got != want {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

func TestTheFileMayBeNamedByTheEnvironment(t *testing.T) {
	t.Setenv("STRANDLINE_CONFIG", writeConfig(t, "# only this\nappend-only: true\nlog-level: debug\nack-timeout: 20s\nrecord-every: 500\n"))
	got, err := loaded(t)
	if err != nil || !got.AppendOnly || got.LogLevel != slog.LevelDebug || got.AckTimeout != 20*time.Second || got.RecordEvery != 500 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestEveryFieldOfConfigHasANameAndAnExplanation(t *testing.T) {
	seen := map[string]bool{}
	for i := range reflect.TypeFor[Config]().NumField() {
		f := reflect.TypeFor[Config]().Field(i)
		name := f.Tag.Get("name")
		if name == "" || f.Tag.Get("usage") == "" || seen[name] || name != strings.ToLower(name) {
			t.Errorf("field %s: name %q, usage %q", f.Name, name, f.Tag.Get("usage"))
		}
		seen[name] = true
	}
}

func TestWhatIsWrongIsAnsweredWithWhatToWrite(t *testing.T) {
	file := func(text string) []string { return []string{"--config", writeConfig(t, text)} }
	for _, c := range []struct {
		name string
		args []string
		want []string // all of them stand in the one line
	}{
		{"a port alone", []string{"--listen", "8000"}, []string{"write --listen 127.0.0.1:8000"}},
		{"a host alone", []string{"--listen", "nas"}, []string{"write --listen nas:8000"}},
		{"an IPv6 host alone", []string{"--listen", "::1"}, []string{"write --listen [::1]:8000"}},
		{"a URL", []string{"--listen=http://127.0.0.1:80/"}, []string{"write --listen 127.0.0.1:80"}},
		{"a port that is none", []string{"--listen", "h:99999"}, []string{"99999", "write --listen h:8000"}},
		{"a word for a size", []string{"--max-size", "much"}, []string{"write --max-size 10GiB"}},
		{"a negative size", []string{"--max-size=-1"}, []string{"write --max-size 10GiB"}},
		{"an ack with a typo", []string{"--ack", "archive"}, []string{"write --ack archived"}},
		{"an ack of another world", []string{"--ack", "x"}, []string{"commit-points, archived, committed", "write --ack commit-points"}},
		{"a duration without unit", []string{"--ack-timeout", "50"}, []string{"write --ack-timeout 50s"}},
		{"a level that is none", []string{"--log-level", "verbose"}, []string{"debug, info, warn, error", "write --log-level info"}},
		{"a flag with a typo", []string{"--htpaswd-file", "x"}, []string{"write --htpasswd-file"}},
		{"a flag without its value", []string{"--listen"}, []string{"write --listen 127.0.0.1:8000"}},
		{"a flag of rest-server", []string{"--private-repos"}, []string{"no such flag", "--help"}},
		{"a single dash", []string{"-listen", "x"}, []string{"two dashes"}},
		{"a boolean with a word", []string{"--tls=sure"}, []string{"write --tls true"}},
		{"a file that is not there", []string{"--config", "/nowhere.yaml"}, []string{"/nowhere.yaml", "no such file"}},
		{"an unknown setting", file("max-size: 1\nmaxsize: 2\n"), []string{"strandline.yaml:2:", "write max-size"}},
		{"a setting twice", file("tls: true\ntls: true\n"), []string{"strandline.yaml:2:", "twice"}},
		{"a bad value in the file", file("\n\nlisten: 8000\n"), []string{"strandline.yaml:3:", "write", "listen: 127.0.0.1:8000"}},
		{"a list in the file", file("listen: [a, b]\n"), []string{"strandline.yaml:1:", "write listen: VALUE"}},
		{"an empty value in the file", file("listen:\n"), []string{"write listen: VALUE"}},
		{"a file that is a list", file("- listen\n"), []string{"not a list of settings"}},
		{"a file that is no YAML", file("a: b: c\n"), []string{"strandline.yaml", "mapping values"}},
	} {
		_, err := loaded(t, c.args...)
		checkLine(t, c.name, err, c.want)
	}
}

func checkLine(t *testing.T, name string, err error, want []string) {
	t.Helper()
	if err == nil || exitCode(err) != exitUsage || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: code %d, %v", name, exitCode(err), err)
		return
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %q does not say %q", name, err, part)
		}
	}
}

func TestTheEnvironmentIsReadAsStrictly(t *testing.T) {
	for variable, c := range map[string]struct{ value, want string }{
		"STRANDLINE_LISTEN":   {"8000", "write STRANDLINE_LISTEN=127.0.0.1:8000"},
		"STRANDLINE_MAXSIZE":  {"1", "write STRANDLINE_MAX_SIZE"},
		"STRANDLINE_SOMETHIN": {"1", "no such variable"},
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, c.value)
			_, err := loaded(t)
			checkLine(t, variable, err, []string{c.want})
		})
	}
	t.Setenv("STRANDLINE_TESTS", "all")
	if _, err := loaded(t); err != nil {
		t.Error(err)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "4096": 4096, "1K": 1000, "1kB": 1000, "1KiB": 1024, "10GiB": 10 << 30, "1.5MiB": 3 << 19, " 2 TiB ": 2 << 40, "7b": 7,
		"9223372036854775807": 1<<63 - 1,
	} {
		var got Size
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("%q is %d, want %d: %v", text, int64(got), int64(want), err)
		}
		var again Size
		if err := again.Set(got.String()); err != nil || again != got {
			t.Errorf("%q prints as %q", text, got.String())
		}
	}
	for _, bad := range []string{"", "GiB", "-1", "1x", "NaN", "inf", "1e30", "9223372036854775808", "9000000TiB", "1 2"} {
		var s Size
		if err := s.Set(bad); err == nil {
			t.Errorf("%q is %d", bad, int64(s))
		}
	}
}

func FuzzSize(f *testing.F) {
	f.Add("10GiB")
	f.Add("1.5k")
	f.Fuzz(func(t *testing.T, text string) {
		var s, again Size
		if s.Set(text) == nil && (s < 0 || again.Set(s.String()) != nil || again != s) {
			t.Fatalf("%q is %d, printed %q", text, int64(s), s.String())
		}
	})
}

func FuzzAddress(f *testing.F) {
	f.Add("8000")
	f.Add("[::1]:80")
	f.Fuzz(func(t *testing.T, text string) {
		var a Address
		err := a.Set(text)
		var instead *insteadError
		if errors.As(err, &instead) && !strings.ContainsAny(text, "[]/:") && a.Set(instead.instead) != nil {
			t.Fatalf("%q: the advice %q is refused too", text, instead.instead)
		}
	})
}

func TestServeSettingsThatDoNotGoTogether(t *testing.T) {
	there := writeConfig(t, "")
	base := func() Config { c := defaultConfig(); c.Data, c.NoAuth = "d", true; return c }
	if c := base(); c.checkServe() != nil {
		t.Fatalf("the least that works: %v", c.checkServe())
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no state directory":         {func(c *Config) { c.Data = "" }, "write --data DIR"},
		"neither users nor no-auth":  {func(c *Config) { c.NoAuth = false }, "write --htpasswd-file FILE"},
		"users and no-auth":          {func(c *Config) { c.HtpasswdFile = there }, "exclude each other"},
		"a users' file not there":    {func(c *Config) { c.NoAuth, c.HtpasswdFile = false, "/nowhere" }, "--htpasswd-file"},
		"TLS without certificate":    {func(c *Config) { c.TLS = true }, "write --tls --tls-cert FILE --tls-key FILE"},
		"a certificate without TLS":  {func(c *Config) { c.TLSCert = there }, "nothing without --tls"},
		"two kinds of NATS":          {func(c *Config) { c.NATSURL, c.NATSListen = "nats://h:1", ":4222" }, "leave one"},
		"NATS credentials alone":     {func(c *Config) { c.NATSCreds = there }, "nothing without --nats"},
		"a password in the NATS URL": {func(c *Config) { c.NATSURL = "nats://u:topsecret@h:1" }, "write --nats-creds FILE"},
		"a NATS URL without host":    {func(c *Config) { c.NATSURL = "localhost" }, "write --nats nats://HOST:4222"},
		"one address twice":          {func(c *Config) { c.Admin = c.Listen }, "a port of its own"},
		"no admin address":           {func(c *Config) { c.Admin = "" }, "--admin is empty"},
		"an endless ack timeout":     {func(c *Config) { c.AckTimeout = time.Hour }, "5m"},
		"no ack timeout":             {func(c *Config) { c.AckTimeout = 0 }, "--ack-timeout"},
		"records at every 0":         {func(c *Config) { c.RecordEvery = 0 }, "write --record-every 65536"},
		"bodies of 8 GiB":            {func(c *Config) { c.MaxBody = 8 << 30 }, "just under 4GiB"},
		"a backlog under an object":  {func(c *Config) { c.MaxBacklog = 1 }, "64MiB"},
		"checkpoints all the time":   {func(c *Config) { c.CheckpointEvery = time.Millisecond }, "--checkpoint-every 1ms: write a duration from 1s on"},
		"a negative pause":           {func(c *Config) { c.CheckpointEvery = -time.Hour }, "or 0 for none by time"},
		"a checkpoint each event":    {func(c *Config) { c.CheckpointEvents = 1 }, "write a number from 1000 on"},
		"no checkpoint kept":         {func(c *Config) { c.CheckpointKeep = 0 }, "--checkpoint-keep 0: write a number from 1"},
		"checkpoints of a century":   {func(c *Config) { c.CheckpointDays = 36500 }, "--checkpoint-days"},
		"no memory":                  {func(c *Config) { c.BodyMemory = 0 }, "--body-memory"},
	} {
		config := base()
		c.change(&config)
		err := config.checkServe()
		checkLine(t, name, err, []string{c.want})
		if err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: the error repeats the password: %v", name, err)
		}
	}
}

func TestArchiveAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"":                          "write --archive dir:PATH",
		"/backup":                   "write --archive dir:/backup",
		"dir:":                      "write --archive dir:PATH",
		"s3:bucket":                 "write --archive s3://BUCKET/PREFIX",
		"s3://key:topsecret@bucket": "AWS_SECRET_ACCESS_KEY",
	} {
		c := Config{Archive: address}
		err := c.checkArchive()
		checkLine(t, address, err, []string{want})
		if err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Errorf("the error repeats the password: %v", err)
		}
	}
	for _, good := range []string{"dir:/backup", "dir:rel", "s3://bucket", "s3://bucket/prefix?endpoint=http://127.0.0.1:9000"} {
		c := Config{Archive: good}
		if err := c.checkArchive(); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

func TestAnArchiveAddressDoesNotDependOnWhereTheCommandWasStarted(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	cfg := defaultConfig()
	cfg.Data, cfg.Archive = "state", "dir:archive"
	if err := cfg.resolve(); err != nil {
		t.Fatal(err)
	}
	if cfg.Data != filepath.Join(here, "state") || cfg.Archive != "dir:"+filepath.Join(here, "archive") {
		t.Errorf("the state directory is %s, the archive %s", cfg.Data, cfg.Archive)
	}
	cfg.Archive = "s3://bucket/prefix?endpoint=http://127.0.0.1:9000"
	if err := cfg.resolve(); err != nil || cfg.Archive != "s3://bucket/prefix?endpoint=http://127.0.0.1:9000" {
		t.Errorf("the bucket's address became %s, %v", cfg.Archive, err)
	}
}
