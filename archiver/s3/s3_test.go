// SPDX-License-Identifier: Apache-2.0

package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/lifecycle"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/archiver/s3"
	"github.com/strandline-project/strandline/internal/testkit"
)

// both runs a test against two stores of different makers.
func both(t *testing.T, test func(t *testing.T, server *testkit.S3)) {
	t.Run("MinIO", func(t *testing.T) { test(t, testkit.MinIO(t)) })
	t.Run("versitygw", func(t *testing.T) { test(t, testkit.VersityGW(t)) })
}

func open(t *testing.T, server *testkit.S3, wrap func(http.RoundTripper) http.RoundTripper) *s3.Bucket {
	t.Helper()
	return openSpec(t, server.Spec(), wrap)
}

func openSpec(t *testing.T, spec string, wrap func(http.RoundTripper) http.RoundTripper) *s3.Bucket {
	t.Helper()
	config, err := s3.ParseSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	config.Credentials = credentials.NewStaticV4(testkit.AccessKey, testkit.SecretKey, "")
	config.Wrap = wrap
	b, err := s3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestAStoreIsABucket(t *testing.T) {
	both(t, func(t *testing.T, server *testkit.S3) {
		buckettest.Run(t, func(t *testing.T) archiver.Bucket { return open(t, server, nil) })
	})
}

func TestAStoreCanHoldAnArchive(t *testing.T) {
	both(t, func(t *testing.T, server *testkit.S3) {
		report, err := archiver.Probe(t.Context(), open(t, server, nil))
		if err != nil || !report.OK() || len(report.Left) > 0 {
			t.Errorf("%+v, %v", report, err)
		}
		for _, check := range report.Checks {
			if check.Err != nil {
				t.Errorf("%s: %v", check.Name, check.Err)
			}
		}
	})
}

// lossy loses the response to the next put: the request is not sent, or it is
// and the store's answer does not come back.
type lossy struct {
	next http.RoundTripper
	lose atomic.Int32 // 1: before it is sent, 2: after
	puts atomic.Int32
}

var errLost = errors.New("connection reset by test")

func (l *lossy) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Method != http.MethodPut {
		return l.next.RoundTrip(request)
	}
	l.puts.Add(1)
	lose := l.lose.Swap(0)
	if lose == 1 {
		return nil, errLost
	}
	response, err := l.next.RoundTrip(request)
	if err == nil && lose == 2 {
		_, readErr := io.Copy(io.Discard, response.Body)
		return nil, errors.Join(errLost, readErr, response.Body.Close())
	}
	return response, err
}

func TestALostResponseIsNotRetriedByTheDriverAndReadBackByPutEqual(t *testing.T) {
	both(t, func(t *testing.T, server *testkit.S3) {
		for lose, name := range map[int32]string{1: "not done", 2: "done"} {
			t.Run(name, func(t *testing.T) {
				network := &lossy{}
				b := open(t, server, func(next http.RoundTripper) http.RoundTripper {
					network.next = next
					return network
				})
				body := archiver.BytesBody([]byte("mine"))

				network.lose.Store(lose)
				err := b.PutIfAbsent(t.Context(), "log/1", body)
				if !errors.Is(err, errLost) || errors.Is(err, archiver.ErrExists) || network.puts.Load() != 1 {
					t.Errorf("the driver says %v after %d requests, want the lost one's error after 1", err, network.puts.Load())
				}
				network.lose.Store(lose)
				if err := archiver.PutEqual(t.Context(), b, "log/2", body); err != nil {
					t.Errorf("PutEqual: %v", err)
				}
				network.lose.Store(lose)
				if err := archiver.PutEqual(t.Context(), b, "log/2", archiver.BytesBody([]byte("other"))); !errors.Is(err, archiver.ErrDifferent) {
					t.Errorf("PutEqual of other bytes gives %v, want ErrDifferent", err)
				}
			})
		}
	})
}

func TestAnOutageIsUnknownNeverAbsence(t *testing.T) {
	both(t, func(t *testing.T, server *testkit.S3) {
		b := open(t, server, nil)
		put := func(key string) error {
			return b.PutIfAbsent(t.Context(), key, archiver.BytesBody([]byte("x")))
		}
		if err := put("log/1"); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		_, headErr := b.Head(t.Context(), "log/2")
		for name, err := range map[string]error{"put": put("log/2"), "head": headErr} {
			if err == nil || errors.Is(err, archiver.ErrNotFound) || errors.Is(err, archiver.ErrExists) {
				t.Errorf("%s gives %v while the store is away", name, err)
			}
		}
		server.Start()
		if _, err := b.Head(t.Context(), "log/1"); err != nil {
			t.Errorf("after the outage: %v", err)
		}
	})
}

func TestAMissingBucketOrAWrongKeyIsUnknownNeverAbsence(t *testing.T) {
	both(t, func(t *testing.T, server *testkit.S3) {
		missing := openSpec(t, "s3://no-such-bucket/x?endpoint="+server.Endpoint, nil)
		config, err := s3.ParseSpec(server.Spec())
		if err != nil {
			t.Fatal(err)
		}
		config.Credentials = credentials.NewStaticV4(testkit.AccessKey, "wrong", "")
		refused, err := s3.New(config)
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string]*s3.Bucket{"missing bucket": missing, "wrong key": refused} {
			_, headErr := b.Head(t.Context(), "epoch/0000000002")
			_, getErr := b.GetRange(t.Context(), "epoch/0000000002", 0, -1)
			putErr := b.PutIfAbsent(t.Context(), "log/1", archiver.BytesBody(nil))
			var listErr error
			for _, listErr = range b.List(t.Context(), "", "") {
			}
			for call, err := range map[string]error{"head": headErr, "get": getErr, "put": putErr, "list": listErr} {
				if err == nil || errors.Is(err, archiver.ErrNotFound) || errors.Is(err, archiver.ErrExists) {
					t.Errorf("%s: %s gives %v", name, call, err)
				}
			}
		}
	})
}

// answer is a store that always says the same.
func answer(t *testing.T, status int, header http.Header, body string) *s3.Bucket {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for name := range header {
			w.Header().Set(name, header.Get(name))
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return openSpec(t, "s3://bucket/archive?endpoint="+server.URL, nil)
}

func TestOnlyTheStoresOwnWordsAreCertain(t *testing.T) {
	named := http.Header{"X-Amz-Request-Id": {"1"}}
	xml := func(code string) string {
		return "<?xml version=\"1.0\"?><Error><Code>" + code + "</Code><Message>m</Message><RequestId>1</RequestId></Error>"
	}
	for _, tc := range []struct {
		name   string
		status int
		header http.Header
		body   string
		want   error // nil: not known
	}{
		{"an absent key", 404, named, xml("NoSuchKey"), archiver.ErrNotFound},
		{"an absent bucket", 404, named, xml("NoSuchBucket"), nil},
		{"a proxy's page", 404, nil, "<html>not here</html>", nil},
		{"a proxy's empty answer", 404, nil, "", nil},
		{"a refusal", 403, named, xml("AccessDenied"), nil},
		{"a failed condition", 412, named, xml("PreconditionFailed"), archiver.ErrExists},
		{"a proxy's failed condition", 412, nil, "", nil},
		{"a conflict of two writers", 409, named, xml("ConditionalRequestConflict"), nil},
		{"too many requests", 503, named, xml("SlowDown"), nil},
		{"a moved bucket", 301, named, xml("PermanentRedirect"), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := answer(t, tc.status, tc.header, tc.body)
			putErr := b.PutIfAbsent(t.Context(), "log/1", archiver.BytesBody([]byte("x")))
			_, headErr := b.Head(t.Context(), "log/1")
			_, getErr := b.GetRange(t.Context(), "log/1", 0, -1)
			for call, err := range map[string]error{"put": putErr, "head": headErr, "get": getErr} {
				if err == nil {
					t.Errorf("%s succeeds", call)
				}
				for _, certain := range []error{archiver.ErrNotFound, archiver.ErrExists} {
					if errors.Is(err, certain) && tc.want != certain {
						t.Errorf("%s says %v, want not known: %v", call, certain, err)
					}
				}
				if tc.want != nil && !errors.Is(err, tc.want) {
					t.Errorf("%s gives %v, want %v", call, err, tc.want)
				}
			}
		})
	}
}

func TestAStoreThatRefusesTheConditionIsAskedOnceAndSaysSo(t *testing.T) {
	var puts, conditions atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		puts.Add(1)
		w.Header().Set("X-Amz-Request-Id", "1")
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("X-Amz-Checksum-Crc32c", r.Header.Get("X-Amz-Checksum-Crc32c"))
		if r.Header.Get("If-None-Match") != "" {
			conditions.Add(1)
			w.WriteHeader(http.StatusNotImplemented)
			io.WriteString(w, "<Error><Code>NotImplemented</Code><Message>A header implies functionality that is not implemented.</Message></Error>")
		}
	}))
	t.Cleanup(server.Close)
	b := openSpec(t, "s3://bucket/archive?endpoint="+server.URL, nil)
	body := archiver.BytesBody([]byte("payload"))

	err := archiver.PutEqual(t.Context(), b, "log/1", body)
	if !errors.Is(err, archiver.ErrUnsupported) || !strings.Contains(err.Error(), "If-None-Match") || puts.Load() != 1 {
		t.Errorf("%v after %d puts, want ErrUnsupported after 1", err, puts.Load())
	}
	report, err := archiver.Probe(t.Context(), b)
	if err != nil || report.OK() || len(report.Checks) != 1 || !errors.Is(report.Checks[0].Err, archiver.ErrUnsupported) {
		t.Errorf("the probe says %+v, %v", report, err)
	}
	before := conditions.Load()
	if err := archiver.PutEqual(t.Context(), b.Unconditional(), "log/1", body); err != nil || conditions.Load() != before {
		t.Errorf("without a condition: %v, and %d requests had one", err, conditions.Load()-before)
	}
}

func TestAPageThatSays501IsNotTheStoresWord(t *testing.T) {
	b := answer(t, 501, nil, "<html>not here</html>")
	if err := b.PutIfAbsent(t.Context(), "log/1", archiver.BytesBody(nil)); err == nil || errors.Is(err, archiver.ErrUnsupported) {
		t.Errorf("a proxy's page gives %v", err)
	}
}

// careless is a store that ignores checksums, and flips a bit if told to.
type careless struct {
	objects map[string]string
	flip    bool
	gets    int
}

func (c *careless) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Amz-Request-Id", "1")
	switch r.Method {
	case http.MethodPut:
		data, _ := io.ReadAll(r.Body)
		if c.flip {
			data[0] ^= 1
		}
		c.objects[r.URL.Path] = string(data)
		w.Header().Set("ETag", `"1"`)
	case http.MethodGet:
		c.gets++
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		io.WriteString(w, c.objects[r.URL.Path])
	}
}

func TestAStoreThatIgnoresTheChecksumIsReadBack(t *testing.T) {
	for _, flip := range []bool{false, true} {
		t.Run(fmt.Sprintf("flipping a bit %v", flip), func(t *testing.T) {
			store := &careless{objects: map[string]string{}, flip: flip}
			server := httptest.NewServer(store)
			t.Cleanup(server.Close)
			b := openSpec(t, "s3://bucket?endpoint="+server.URL, nil)
			err := b.PutIfAbsent(t.Context(), "log/1", archiver.BytesBody([]byte("payload")))
			if store.gets != 1 || (err != nil) != flip {
				t.Errorf("%v after %d reads", err, store.gets)
			}
		})
	}
}

func TestLifecycleRulesOverTheArchiveAreWarnedOf(t *testing.T) {
	server := testkit.MinIO(t)
	spec := server.Spec()
	config, err := s3.ParseSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	b := openSpec(t, spec, nil)
	client, err := minio.New(config.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(testkit.AccessKey, testkit.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	if warnings := b.Warnings(t.Context()); len(warnings) > 0 {
		t.Errorf("a bucket without rules: %q", warnings)
	}
	rule := func(id, prefix, status string) lifecycle.Rule {
		return lifecycle.Rule{ID: id, Status: status, RuleFilter: lifecycle.Filter{Prefix: prefix}, Expiration: lifecycle.Expiration{Days: 7}}
	}
	for _, tc := range []struct {
		name  string
		rule  lifecycle.Rule
		warns bool
	}{
		{"over everything", rule("all", "", "Enabled"), true},
		{"over the archive", rule("archive", "archive/", "Enabled"), true},
		{"over a part of it", rule("log", "archive/log/", "Enabled"), true},
		{"over something else", rule("tmp", "tmp/", "Enabled"), false},
		{"that is disabled", rule("off", "", "Disabled"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rules := lifecycle.NewConfiguration()
			rules.Rules = []lifecycle.Rule{tc.rule}
			if err := client.SetBucketLifecycle(t.Context(), config.Bucket, rules); err != nil {
				t.Fatal(err)
			}
			if warnings := b.Warnings(t.Context()); (len(warnings) > 0) != tc.warns {
				t.Errorf("warnings: %q, want some: %v", warnings, tc.warns)
			}
		})
	}
}

func TestAClockFarFromTheStoresIsWarnedOf(t *testing.T) {
	for _, tc := range []struct {
		ahead time.Duration
		warns bool
	}{{0, false}, {4 * time.Minute, false}, {6 * time.Minute, true}, {-6 * time.Minute, true}} {
		date := time.Now().Add(-tc.ahead).UTC().Format(http.TimeFormat)
		b := answer(t, 404, http.Header{"Date": {date}}, "<Error><Code>NoSuchLifecycleConfiguration</Code></Error>")
		warnings := b.Warnings(t.Context())
		if (len(warnings) == 1 && strings.Contains(warnings[0], "clock")) != tc.warns || len(warnings) > 1 {
			t.Errorf("a clock %v ahead: %q", tc.ahead, warnings)
		}
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel()
		<-release
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	b := openSpec(t, "s3://bucket?endpoint="+server.URL, nil)
	if _, err := b.Head(ctx, "log/1"); !errors.Is(err, context.Canceled) {
		t.Errorf("Head gives %v, want the context's end", err)
	}
}
