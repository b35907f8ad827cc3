// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/internal/blockstore"
	"golang.org/x/crypto/bcrypt"
)

// shaSecret is "secret" as htpasswd -s writes it.
const shaSecret = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="

func basic(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func withAuth(t testing.TB, lines ...string) (func(*Config), *Auth) {
	t.Helper()
	a, err := OpenAuth(writeUsers(t, lines...), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Auth = a }, a
}

func TestBadOrMissingCredentialsAre401OnEveryPath(t *testing.T) {
	body := ""
	for _, path := range []string{"/", repo, repo + "config", repo + "data/" + someID, "/nobody/x/", "/data/", "/alice//"} {
		auth, _ := withAuth(t, bcryptLine(t, "alice", "secret"), "bob:"+shaSecret+"\n") // each with failures of its own
		d := openDoor(t, auth)
		for _, header := range []string{
			"X-None: 1", "Authorization: Basic Og==", "Authorization: Basic %%%", "Authorization: Bearer abc",
			basic("alice", ""), basic("alice", "Secret"), basic("nobody", "secret"), basic("bob", "wrong"), basic("a/b", "secret"),
		} {
			d.store.set(func(s *fakeStore) {
				s.before = func(string, blockstore.Ref) error { t.Error("the store was asked"); return nil }
			})
			got := d.ask("GET", path, nil, header)
			if got.status != 401 || !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Basic ") {
				t.Fatalf("%s with %q: %d %v", path, header, got.status, got.header)
			}
			if body == "" {
				body = got.body
			}
			if got.body != body {
				t.Errorf("%s with %q tells something: %q", path, header, got.body)
			}
		}
	}
}

func TestEveryKindOfHashLetsItsUserIn(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"$2a$", "$2b$", "$2y$"} {
		auth, _ := withAuth(t, "# a comment\n\nalice:"+prefix+string(hash[4:])+"\n")
		openDoor(t, auth).want(200, "POST", repo+"?create=true", "", basic("alice", "secret"))
	}
	auth, _ := withAuth(t, "alice:"+shaSecret+"\r\n")
	openDoor(t, auth).want(200, "POST", repo+"?create=true", "", basic("alice", "secret"))
}

func TestEventsNameTheUser(t *testing.T) {
	auth, _ := withAuth(t, bcryptLine(t, "alice", "secret"))
	d := openDoor(t, auth)
	d.want(200, "POST", repo+"?create=true", "", basic("alice", "secret"))
	if fmt.Sprint(d.store.actors) != "[user:alice]" {
		t.Errorf("%v", d.store.actors)
	}
}

func TestAnotherAccountsPathIs403WhetherItExistsOrNot(t *testing.T) {
	auth, _ := withAuth(t, bcryptLine(t, "alice", "secret"), bcryptLine(t, "bob", "geheim"))
	d := openDoor(t, auth)
	d.want(200, "POST", "/bob/pc/?create=true", "", basic("bob", "geheim"))
	d.want(200, "POST", "/bob/pc/data/"+id("x"), "x", basic("bob", "geheim"))
	d.store.set(func(s *fakeStore) {
		s.before = func(verb string, _ blockstore.Ref) error { t.Errorf("%s was asked of the store", verb); return nil }
	})
	body := ""
	for _, path := range []string{
		"/bob/pc/data/" + id("x"), "/bob/pc/data/" + id("y"), "/bob/pc/data/", "/bob/pc/config", "/bob/no/config", "/nobody/pc/config",
		"/alicex/pc/config", "/Alice/pc/config", "/alic/pc/config", "/bob/config",
	} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			got := d.want(403, method, path, "", basic("alice", "secret"))
			if body == "" {
				body = got.body
			}
			if got.body != body {
				t.Errorf("%s %s: %q differs from %q", method, path, got.body, body)
			}
		}
	}
}

func TestAnEscapedSlashInAPathGetsNobodyIntoAnotherAccount(t *testing.T) {
	auth, _ := withAuth(t, bcryptLine(t, "alice", "secret"))
	d := openDoor(t, auth)
	for _, path := range []string{"/alice%2f..%2fbob/pc/config", "/alice/..%2f..%2fbob/config", "/alice/../bob/config", "/alice%2fconfig/"} {
		d.want(404, "GET", path, "", basic("alice", "secret"))
	}
}

// countingHash is a password hash that counts how often it is computed.
type countingHash struct {
	password string
	n        atomic.Int32
	wait     chan struct{}
	takes    time.Duration
}

func (c *countingHash) MatchesPassword(p string) bool {
	c.n.Add(1)
	if c.wait != nil {
		<-c.wait
	}
	time.Sleep(c.takes)
	return p == c.password
}

// countedAuth has one user, alice with the password secret, and a decoy.
func countedAuth(t testing.TB) (a *Auth, hash, decoy *countingHash) {
	t.Helper()
	_, a = withAuth(t, bcryptLine(t, "alice", "secret"))
	hash, decoy = &countingHash{password: "secret"}, &countingHash{}
	countHash(a, "alice", hash)
	a.users.decoy = decoy
	return a, hash, decoy
}

// countHash puts hash in the place of a user's.
func countHash(a *Auth, name string, hash *countingHash) {
	u := a.users.users[name]
	u.encoded, u.slow = hash, true
	a.users.users[name] = u
}

func request(user, password, from string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.SetBasicAuth(user, password)
	r.RemoteAddr = from
	return r
}

func statusOf(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	return 200
}

func TestARightPasswordIsHashedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, hash, _ := countedAuth(t)
		for range 10 {
			if user, err := a.verify(request("alice", "secret", "1.2.3.4:5")); user != "alice" || err != nil {
				t.Fatal(user, err)
			}
			time.Sleep(time.Hour)
		}
		if hash.n.Load() != 1 {
			t.Errorf("hashed %d times", hash.n.Load())
		}
	})
}

func TestAWrongPasswordIsNeverRemembered(t *testing.T) {
	a, hash, _ := countedAuth(t)
	for i := range 5 {
		if _, err := a.verify(request("alice", "wrong", "1.2.3.4:5")); statusOf(err) != 401 || hash.n.Load() != int32(i+1) {
			t.Fatalf("%v, hashed %d times", err, hash.n.Load())
		}
	}
}

func TestAnUnknownUserCostsAHashToo(t *testing.T) {
	a, hash, decoy := countedAuth(t)
	a.users.users["sha"] = user{encoded: &countingHash{password: "x"}, lane: newLane()}
	for i, name := range []string{"nobody", "sha"} {
		if _, err := a.verify(request(name, "secret", "1.2.3.4:5")); statusOf(err) != 401 {
			t.Error(err)
		}
		if decoy.n.Load() != int32(i+1) || hash.n.Load() != 0 {
			t.Errorf("%s: decoy %d, alice's %d", name, decoy.n.Load(), hash.n.Load())
		}
	}
}

func TestConnectionsThatComeTogetherShareOneHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, hash, _ := countedAuth(t)
		hash.wait = make(chan struct{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := a.verify(request("alice", "secret", "1.2.3.4:5")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(hash.wait)
		wg.Wait()
		if hash.n.Load() != 1 {
			t.Errorf("hashed %d times", hash.n.Load())
		}
	})
}

func TestAClientThatHangsUpTakesNobodyWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, _ := countedAuth(t)
		for range cap(a.slots) {
			a.slots <- struct{}{} // all processors are busy
		}
		gone, hangUp := context.WithCancel(t.Context())
		results := make(chan error, 2)
		go func() {
			_, err := a.verify(request("alice", "secret", "1.2.3.4:5").WithContext(gone))
			results <- err
		}()
		synctest.Wait()
		go func() {
			_, err := a.verify(request("alice", "secret", "1.2.3.4:6"))
			results <- err
		}()
		synctest.Wait()
		hangUp()
		if err := <-results; statusOf(err) != 503 {
			t.Errorf("the one who hung up: %v", err)
		}
		<-a.slots
		if err := <-results; err != nil {
			t.Errorf("the other: %v", err)
		}
	})
}

func TestFailuresAreLimitedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, hash, _ := countedAuth(t)
		if _, err := a.verify(request("alice", "secret", "[2001:db8::1]:5")); err != nil {
			t.Fatal(err)
		}
		for i := range failureBurst {
			if _, err := a.verify(request("alice", fmt.Sprint(i), fmt.Sprintf("[2001:db8::%x]:5", i))); statusOf(err) != 401 {
				t.Fatalf("failure %d: %v", i, err)
			}
		}
		began := time.Now()
		if _, err := a.verify(request("alice", "again", "[2001:db8::ffff]:5")); statusOf(err) != 401 || time.Since(began) < failureEvery {
			t.Errorf("one more: %v after %v, want 401 when its turn has come", err, time.Since(began))
		}
		before, waiting := hash.n.Load(), make(chan error, int(longestTurn/failureEvery))
		for i := range cap(waiting) {
			go func() {
				_, err := a.verify(request("alice", fmt.Sprint("waiting ", i), "[2001:db8::1]:5"))
				waiting <- err
			}()
		}
		synctest.Wait()
		_, err := a.verify(request("alice", "and one more", "[2001:db8::ffff]:5"))
		if r, ok := errors.AsType[*refusal](err); !ok || r.status != 429 || r.retryAfter <= 0 || hash.n.Load() != before {
			t.Errorf("one too many: %v, %d hashes", err, hash.n.Load()-before)
		}
		if _, err := a.verify(request("alice", "again", "[2001:db8:0:1::1]:5")); statusOf(err) != 401 {
			t.Errorf("from elsewhere: %v", err)
		}
		time.Sleep(2 * time.Second)
		if _, err := a.verify(request("alice", "secret", "[2001:db8::1]:5")); err != nil {
			t.Errorf("a password that is remembered: %v", err)
		}
		for range cap(waiting) {
			if err := <-waiting; statusOf(err) != 401 {
				t.Errorf("one that waited: %v", err)
			}
		}
		if hashed := hash.n.Load() - before; hashed != int32(cap(waiting))+1 {
			t.Errorf("%d hashes for %d that waited and one from elsewhere", hashed, cap(waiting))
		}
		time.Sleep(failureEvery)
		if _, err := a.verify(request("alice", "again", "[2001:db8::1]:5")); statusOf(err) != 401 {
			t.Errorf("later: %v", err)
		}
	})
}

// flood tries a hundred wrong passwords from one address at once, for each name
// in turn. That is more than the address may have waiting.
func flood(t *testing.T, a *Auth, names ...string) (end func()) {
	t.Helper()
	ctx, hangUp := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	var refused atomic.Int32
	for i := range 100 {
		r := request(names[i%len(names)], fmt.Sprint("wrong ", i), "1.2.3.4:5").WithContext(ctx)
		waiting.Go(func() {
			if _, err := a.verify(r); statusOf(err) == 429 {
				refused.Add(1)
			}
		})
	}
	synctest.Wait()
	if refused.Load() == 0 {
		t.Fatal("no guess was refused")
	}
	return func() { hangUp(); waiting.Wait() }
}

// While somebody guesses without end, from the address of them all, passwords
// that are right go in: those known before, over any change of the file that
// leaves the user's own line, and the first one after a start.
func TestGuessingLocksNobodyOutWhoseNameIsNotGuessedAt(t *testing.T) {
	for name, guessed := range map[string][]string{
		"one name of the file": {"bob"}, "a name that is not in it": {"nobody"}, "many names": {"bob", "x1", "x2", "x3", "x4", "dave"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines := []string{bcryptLine(t, "alice", "secret"), bcryptLine(t, "bob", "geheim"), bcryptLine(t, "carol", "third")}
				_, a := withAuth(t, lines...)
				in := func(user, password string) {
					t.Helper()
					if _, err := a.verify(request(user, password, "1.2.3.4:5")); err != nil {
						t.Errorf("%s: %v", user, err)
					}
				}
				in("alice", "secret")
				defer flood(t, a, guessed...)()
				began := time.Now()
				in("alice", "secret")
				in("carol", "third") // for the first time
				replace(t, a.file, bcryptLine(t, "dave", "new")+lines[2]+lines[0])
				if err := a.Reload(); err != nil {
					t.Fatal(err)
				}
				in("alice", "secret")
				if took := time.Since(began); took != 0 {
					t.Errorf("they waited for %v", took)
				}
			})
		})
	}
}

// What is known of a password goes with the user's line, not with the name.
func TestAPasswordIsKnownAsLongAsItsLineStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, other := bcryptLine(t, "alice", "secret"), bcryptLine(t, "bob", "geheim")
		_, a := withAuth(t, first, other)
		verify := func(want int, hashes int32) {
			t.Helper()
			hash := &countingHash{password: "secret"}
			countHash(a, "alice", hash)
			if _, err := a.verify(request("alice", "secret", "1.2.3.4:5")); statusOf(err) != want || hash.n.Load() != hashes {
				t.Errorf("%v after %d hashes, want %d after %d", err, hash.n.Load(), want, hashes)
			}
		}
		edit := func(lines ...string) {
			t.Helper()
			replace(t, a.file, strings.Join(lines, ""))
			if err := a.Reload(); err != nil {
				t.Fatal(err)
			}
		}
		verify(200, 1)
		verify(200, 0)
		edit("# who may\n", first)
		verify(200, 0)
		edit(bcryptLine(t, "alice", "secret"), other) // with another salt
		verify(200, 1)
		edit(other)
		if _, err := a.verify(request("alice", "secret", "1.2.3.4:5")); statusOf(err) != 401 {
			t.Errorf("one who is not in the file any more: %v", err)
		}
		edit(first)
		verify(200, 1)
		edit(other, first)
		verify(200, 0)
	})
}

// The answers to wrong passwords are the same for a user of the file, who has a
// share of his own, and for one who is not there: the status, and when it comes.
func TestAnswersDoNotTellWhoIsInTheFile(t *testing.T) {
	answers := map[string]string{}
	for _, name := range []string{"alice", "nobody"} {
		synctest.Test(t, func(t *testing.T) {
			a, hash, decoy := countedAuth(t)
			hash.takes, decoy.takes = time.Second, time.Second
			for i := range failureBurst + 3 {
				began := time.Now()
				_, err := a.verify(request(name, fmt.Sprint(i), "1.2.3.4:5"))
				answers[name] += fmt.Sprintln(statusOf(err), time.Since(began))
			}
			time.Sleep(shareEvery) // alice has a try of her own again
			for full := false; !full; {
				f, _ := a.limit.admit(remoteSource("1.2.3.4:5"), time.Now())
				full = f == nil
			}
			began := time.Now()
			_, err := a.verify(request(name, "x", "1.2.3.4:5"))
			answers[name] += fmt.Sprintln(statusOf(err), time.Since(began))
		})
	}
	if answers["alice"] != answers["nobody"] {
		t.Errorf("a user of the file:\n%sanother name:\n%s", answers["alice"], answers["nobody"])
	}
}

// However many names and addresses guess, so many passwords are hashed at once,
// and of each name one: the others' first ones get their turn.
func TestGuessingFromEverywhereKeepsABoundOnHashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a := withAuth(t, bcryptLine(t, "alice", "secret"), bcryptLine(t, "bob", "geheim"))
		alice, bob, decoy := &countingHash{password: "secret"}, &countingHash{takes: time.Second}, &countingHash{takes: time.Second}
		countHash(a, "alice", alice)
		countHash(a, "bob", bob)
		a.users.decoy = decoy
		ctx, hangUp := context.WithCancel(t.Context())
		var guesses sync.WaitGroup
		for i := range 1000 {
			name := []string{"bob", fmt.Sprint("x", i)}[i%2]
			guesses.Go(func() {
				_, _ = a.verify(request(name, "wrong", fmt.Sprintf("10.0.%d.%d:1", i/200, i%200)).WithContext(ctx))
			})
		}
		synctest.Wait()
		if n := bob.n.Load() + decoy.n.Load(); int(n) > cap(a.slots) {
			t.Errorf("%d hashes at once, there are %d slots", n, cap(a.slots))
		}
		began := time.Now()
		if _, err := a.verify(request("alice", "secret", "10.1.0.1:1")); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited > 5*time.Second {
			t.Errorf("a first right password waited for %v behind the guesses", waited)
		}
		hangUp()
		guesses.Wait()
	})
}

func TestMillionsOfNamesAndAddressesTakeBoundedMemory(t *testing.T) {
	l, now := newFailureLimit(), time.Now()
	for i := range 3 * maxCounted {
		source := remoteSource(fmt.Sprintf("[2001:db8:%x:%x::1]:1", i>>16, i&0xffff))
		f, _ := l.admit(source, now)
		l.settle(f, now, false)
		l.settle(l.ahead(source, "alice", now), now, false)
	}
	if len(l.sources) > maxCounted || len(l.shares) > maxCounted {
		t.Errorf("%d sources and %d shares are kept", len(l.sources), len(l.shares))
	}
	_, a := withAuth(t, bcryptLine(t, "alice", "secret"))
	for i := range 100 { // names that are not in the file have no share
		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		_, _ = a.verify(request(fmt.Sprint("x", i), "wrong", "1.2.3.4:5").WithContext(ctx))
	}
	if len(a.limit.sources) != 1 || len(a.limit.shares) != 0 || len(a.verified) != 0 {
		t.Errorf("%d sources, %d shares, %d passwords are kept", len(a.limit.sources), len(a.limit.shares), len(a.verified))
	}
}

func TestARightPasswordThatNobodyKnowsGoesInBehindAnAddressOfFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, _ := countedAuth(t)
		for i := range failureBurst + 3 {
			if _, err := a.verify(request("bob", fmt.Sprint(i), "1.2.3.4:5")); statusOf(err) != 401 {
				t.Fatalf("failure %d: %v", i, err)
			}
		}
		gone, hangUp := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := a.verify(request("bob", "gone", "1.2.3.4:5").WithContext(gone))
			left <- err
		}()
		synctest.Wait()
		hangUp()
		if err := <-left; statusOf(err) != 503 {
			t.Errorf("one who hung up while it waited: %v", err)
		}
		if _, err := a.verify(request("alice", "secret", "1.2.3.4:5")); err != nil {
			t.Error(err)
		}
	})
}

func TestQuietSourcesAreForgotten(t *testing.T) {
	l, now := newFailureLimit(), time.Now()
	for i := range 100 {
		source := remoteSource(fmt.Sprintf("10.0.0.%d:1", i))
		f, _ := l.admit(source, now)
		l.settle(f, now, false)
		l.settle(l.ahead(source, "alice", now), now, false)
	}
	l.admit(remoteSource("@"), now.Add(max(failureBurst*failureEvery, shareBurst*shareEvery)))
	if len(l.sources) != 1 || len(l.shares) != 0 {
		t.Errorf("%d sources and %d shares are kept", len(l.sources), len(l.shares))
	}
}

func TestAChangedFileIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a := withAuth(t, bcryptLine(t, "alice", "secret"), bcryptLine(t, "bob", "geheim"))
		in := func(user, password string, want int) {
			t.Helper()
			if _, err := a.verify(request(user, password, "1.2.3.4:5")); statusOf(err) != want {
				t.Errorf("%s: %v, want %d", user, err, want)
			}
		}
		in("alice", "secret", 200)
		in("bob", "geheim", 200)
		replace(t, a.file, bcryptLine(t, "alice", "new secret"))
		time.Sleep(lookEvery)
		in("alice", "secret", 401)
		in("alice", "new secret", 200)
		in("bob", "geheim", 401)
		replace(t, a.file, "alice:plain text\n")
		time.Sleep(lookEvery)
		in("alice", "new secret", 200)
		if err := os.Remove(a.file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery)
		in("alice", "new secret", 200)
		replace(t, a.file, bcryptLine(t, "carol", "x"))
		if err := a.Reload(); err != nil {
			t.Fatal(err)
		}
		in("carol", "x", 200)
		in("alice", "new secret", 401)
	})
}

// replace puts another file in the place of one, as an editor does.
func replace(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestABadPasswordFileIsRefusedAndItsLineNamedWithoutTheHash(t *testing.T) {
	for name, c := range map[string]struct{ content, says string }{
		"no user":            {"# nothing\n\n", "no user"},
		"no colon":           {"alice\n", "line 1"},
		"plain text":         {"\nalice:topsecret\n", "line 2"},
		"MD5":                {"alice:$apr1$topsecret$abc\n", "htpasswd -B"},
		"half a bcrypt hash": {"alice:$2y$05$topsecret\n", "htpasswd -B"},
		"the broken $2x$":    {"alice:$2x$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK\n", "htpasswd -B"},
		"a bad {SHA}":        {"alice:{SHA}topsecret\n", "htpasswd -B"},
		"a cost of 31":       {"alice:$2y$31$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK\n", "cost"},
		"a slash in a name":  {"foo/config:" + shaSecret + "\n", "letters"},
		"an empty name":      {":" + shaSecret + "\n", "letters"},
		"a user twice":       {"alice:" + shaSecret + "\nalice:" + shaSecret + "\n", "twice"},
	} {
		_, err := OpenAuth(writeUsers(t, c.content), nil)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenAuth("/no/such/file", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestTheDecoyIsTheCostliestHash(t *testing.T) {
	cheap, err := bcrypt.GenerateFromPassword([]byte("a"), 4)
	if err != nil {
		t.Fatal(err)
	}
	dear, err := bcrypt.GenerateFromPassword([]byte("b"), 6)
	if err != nil {
		t.Fatal(err)
	}
	users, err := parseUsers(fmt.Appendf(nil, "x:%s\na:%s\nb:%s\nc:%s\n", shaSecret, cheap, dear, cheap))
	if err != nil {
		t.Fatal(err)
	}
	if !users.decoy.MatchesPassword("b") {
		t.Error("the decoy is another hash")
	}
}

func FuzzParseUsers(f *testing.F) {
	f.Add([]byte("alice:" + shaSecret + "\n"))
	f.Add([]byte("alice:$2y$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK\n#x\n"))
	f.Add([]byte("a:b:c\n\xff:\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		users, err := parseUsers(content)
		if err == nil && len(users.users) == 0 {
			t.Fatal("a file without users is accepted")
		}
		if err != nil {
			return
		}
		for name := range users.users {
			if !userName.MatchString(name) {
				t.Fatalf("user %q", name)
			}
		}
	})
}
