// SPDX-License-Identifier: Apache-2.0

package s3

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Scheme begins the specification of an S3 archive.
const Scheme = "s3://"

// Config says where an S3 archive is.
type Config struct {
	Bucket   string
	Prefix   string // "" or ends with a slash; of every key
	Endpoint string // host:port
	Region   string
	Secure   bool // TLS

	// Credentials gives the access key; nil looks for one as Open says.
	Credentials *credentials.Credentials
	// Wrap, if not nil, stands between the driver and the network. Tests
	// lose responses with it.
	Wrap func(http.RoundTripper) http.RoundTripper
}

const (
	defaultEndpoint = "https://s3.amazonaws.com"
	defaultRegion   = "us-east-1"
	usage           = "write s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=REGION"
)

// ParseSpec reads "s3://BUCKET/PREFIX?endpoint=URL&region=REGION". Without an
// endpoint it is Amazon's. A specification holds no credentials; one that does
// is refused, because it would end up in logs.
func ParseSpec(spec string) (Config, error) {
	u, err := url.Parse(spec)
	if err != nil {
		return Config{}, fmt.Errorf("archive: %s: not a URL", usage) // the URL itself may hold a secret
	}
	if u.User != nil {
		return Config{}, fmt.Errorf("archive s3://%s: no credentials in here; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the same with _FILE", u.Host)
	}
	if u.Scheme != "s3" || u.Host == "" || u.Fragment != "" {
		return Config{}, fmt.Errorf("archive %q: %s", spec, usage)
	}
	c := Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Region: defaultRegion}
	if c.Prefix != "" {
		c.Prefix += "/"
	}
	endpoint := defaultEndpoint
	for name, values := range u.Query() {
		switch value := values[len(values)-1]; {
		case value == "":
			return Config{}, fmt.Errorf("archive %q: %s is empty; %s", spec, name, usage)
		case name == "endpoint":
			endpoint = value
		case name == "region":
			c.Region = value
		default:
			return Config{}, fmt.Errorf("archive %q: unknown setting %s; %s", spec, name, usage)
		}
	}
	return c, c.setEndpoint(endpoint)
}

func (c *Config) setEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" ||
		u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("archive s3://%s: the endpoint must be http://HOST:PORT or https://HOST:PORT", c.Bucket)
	}
	c.Endpoint, c.Secure = u.Host, u.Scheme == "https"
	return nil
}

// amazon reports whether the endpoint is Amazon's own.
func (c *Config) amazon() bool {
	host := strings.Split(c.Endpoint, ":")[0]
	return host == "amazonaws.com" || strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn")
}

// ErrNoCredentials says that no access key was found anywhere.
var ErrNoCredentials = errors.New("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_ACCESS_KEY_ID_FILE and AWS_SECRET_ACCESS_KEY_FILE, or write ~/.aws/credentials")

// credentials looks for an access key, first found first: the environment
// (AWS_..., MINIO_...), files that the environment names (..._FILE), files in
// $CREDENTIALS_DIRECTORY, the shared file ~/.aws/credentials, and at Amazon
// the instance's role.
func (c *Config) credentials() (*credentials.Credentials, error) {
	chain := c.Credentials
	if chain == nil {
		providers := []credentials.Provider{
			&credentials.EnvAWS{}, &credentials.EnvMinio{}, &secretFiles{}, &credentials.FileAWSCredentials{},
		}
		if c.amazon() {
			providers = append(providers, &credentials.IAM{Client: http.DefaultClient})
		}
		chain = credentials.NewChainCredentials(providers)
	}
	found, err := chain.GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	if found.AccessKeyID == "" || found.SecretAccessKey == "" {
		return nil, ErrNoCredentials
	}
	return chain, nil
}

// secretFiles reads an access key from files. It implements
// credentials.Provider.
type secretFiles struct{ read bool }

var errNoFiles = errors.New("no files named")

// RetrieveWithCredContext implements credentials.Provider.
func (s *secretFiles) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return s.Retrieve()
}

// Retrieve implements credentials.Provider.
func (s *secretFiles) Retrieve() (credentials.Value, error) {
	s.read = false
	for _, prefix := range []string{"AWS_", "MINIO_"} {
		key, err := readSecret(prefix, "ACCESS_KEY_ID", "ACCESS_KEY")
		if err != nil {
			continue
		}
		secret, err := readSecret(prefix, "SECRET_ACCESS_KEY", "SECRET_KEY")
		if err != nil {
			return credentials.Value{}, err
		}
		token, err := readSecret(prefix, "SESSION_TOKEN")
		if err != nil && !errors.Is(err, errNoFiles) {
			return credentials.Value{}, err
		}
		s.read = true
		return credentials.Value{AccessKeyID: key, SecretAccessKey: secret, SessionToken: token, SignerType: credentials.SignatureV4}, nil
	}
	return credentials.Value{}, errNoFiles
}

// IsExpired implements credentials.Provider: what was read stays.
func (s *secretFiles) IsExpired() bool { return !s.read }

// readSecret returns the content of the first file that a variable
// PREFIXNAME_FILE names, or that has such a name in $CREDENTIALS_DIRECTORY.
func readSecret(prefix string, names ...string) (string, error) {
	for _, name := range names {
		path := os.Getenv(prefix + name + "_FILE")
		if dir := os.Getenv("CREDENTIALS_DIRECTORY"); path == "" && dir != "" {
			path = filepath.Join(dir, strings.ToLower(prefix+name))
			if _, err := os.Stat(path); err != nil {
				continue
			}
		}
		if path == "" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("%s%s_FILE: %w", prefix, name, err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	return "", errNoFiles
}
