// SPDX-License-Identifier: Apache-2.0

package s3

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestSpecificationsAreRead(t *testing.T) {
	for spec, want := range map[string]Config{
		"s3://bucket":                    {Bucket: "bucket", Endpoint: "s3.amazonaws.com", Region: "us-east-1", Secure: true},
		"s3://bucket/":                   {Bucket: "bucket", Endpoint: "s3.amazonaws.com", Region: "us-east-1", Secure: true},
		"s3://bucket/a/b/?region=eu-1":   {Bucket: "bucket", Prefix: "a/b/", Endpoint: "s3.amazonaws.com", Region: "eu-1", Secure: true},
		"s3://b/p?endpoint=http://h:9":   {Bucket: "b", Prefix: "p/", Endpoint: "h:9", Region: "us-east-1"},
		"s3://b/p?endpoint=https://h/":   {Bucket: "b", Prefix: "p/", Endpoint: "h", Region: "us-east-1", Secure: true},
		"s3://b?endpoint=http://[::1]:9": {Bucket: "b", Endpoint: "[::1]:9", Region: "us-east-1"},
	} {
		if got, err := ParseSpec(spec); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", spec, got, err, want)
		}
	}
}

func TestWrongSpecificationsSayWhatToWriteAndShowNoSecret(t *testing.T) {
	for _, spec := range []string{
		"", "s3:", "s3://", "s3:///prefix", "dir:/x", "https://bucket", "s3://key:topsecret@bucket/p", "s3://key:topsecret@%zz",
		"s3://b?endpoint=", "s3://b?endpoint=h:9", "s3://b?endpoint=ftp://h", "s3://b?endpoint=http://h/path",
		"s3://b?endpoint=http://key:topsecret@h", "s3://b?colour=blue", "s3://b#x",
	} {
		_, err := ParseSpec(spec)
		if err == nil {
			t.Errorf("%q is taken", spec)
		} else if strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%q: the error shows the secret: %v", spec, err)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add("s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=x")
	f.Add("s3://bucket")
	f.Fuzz(func(t *testing.T, spec string) {
		c, err := ParseSpec(spec)
		if err == nil && (c.Bucket == "" || c.Endpoint == "" || c.Prefix != "" && !strings.HasSuffix(c.Prefix, "/")) {
			t.Errorf("%q gives %+v", spec, c)
		}
	})
}

// noCredentials hides whatever the environment of the test has.
func noCredentials(t *testing.T) {
	t.Helper()
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "MINIO_") || name == "CREDENTIALS_DIRECTORY" {
			t.Setenv(name, "")
			os.Unsetenv(name)
		}
	}
	t.Setenv("HOME", t.TempDir())
}

func TestCredentialsAreFoundWhereTheyAreKept(t *testing.T) {
	write := func(t *testing.T, name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, set := range map[string]func(t *testing.T){
		"environment": func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", "key")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
		},
		"environment for MinIO": func(t *testing.T) {
			t.Setenv("MINIO_ACCESS_KEY", "key")
			t.Setenv("MINIO_SECRET_KEY", "secret")
		},
		"files": func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID_FILE", write(t, "k", "key"))
			t.Setenv("AWS_SECRET_ACCESS_KEY_FILE", write(t, "s", "secret"))
		},
		"credentials directory": func(t *testing.T) {
			path := write(t, "aws_access_key_id", "key")
			t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(path))
			if err := os.WriteFile(filepath.Join(filepath.Dir(path), "aws_secret_access_key"), []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"shared file": func(t *testing.T) {
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", write(t, "credentials", "[default]\naws_access_key_id = key\naws_secret_access_key = secret"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			noCredentials(t)
			set(t)
			config := Config{Endpoint: "127.0.0.1:9000"}
			creds, err := config.credentials()
			if err != nil {
				t.Fatal(err)
			}
			value, err := creds.GetWithContext(nil)
			if err != nil || value.AccessKeyID != "key" || value.SecretAccessKey != "secret" {
				t.Errorf("found key %q, %v", value.AccessKeyID, err)
			}
		})
	}
}

func TestWithoutCredentialsNothingIsOpened(t *testing.T) {
	noCredentials(t)
	if _, err := Open("s3://bucket?endpoint=http://127.0.0.1:9000"); !errors.Is(err, ErrNoCredentials) {
		t.Errorf("Open gives %v, want ErrNoCredentials", err)
	}
}
