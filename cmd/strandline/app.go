// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
	"github.com/strandline-project/strandline/internal/feed"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/metrics"
	"github.com/strandline-project/strandline/internal/progress"
	"github.com/strandline-project/strandline/internal/resticapi"
	"github.com/strandline-project/strandline/projector"
)

// How long a stop may take, from its beginning: requests under way may end
// until stopRequests, what is not archived is shipped until stopShipping.
const (
	stopRequests = 10 * time.Second
	stopShipping = 20 * time.Second
)

// awayPause is how often an archive that does not answer is asked again.
const awayPause = 2 * time.Second

// firstTry is how long a start waits for the archive before reads are served
// without it.
const firstTry = 5 * time.Second

// app is `strandline serve`: the only place where the parts meet.
type app struct {
	cfg     *Config
	log     *slog.Logger
	metrics *metrics.Metrics
	started time.Time
	waivers []archiver.Waiver // of what has rotted, by flag
	door    *door
	auth    *resticapi.Auth

	dir     *archiver.StateDir
	bucket  archiver.Bucket
	archive *archiver.Archive
	// history is the archive as the views read it: ahead, with as many reads at
	// once as it is worth. A client's read does not wait behind those.
	history *archiver.Archive
	reads   *archiver.AdaptiveBucket // below history
	views   *viewSet
	feed    *feed.Feed
	// progress is that of the start; it is told to the service manager, too.
	progress *progress.Progress
	notTaken int // starts at a bucket that took nothing, or contradicted itself; owned by the goroutine of the start
	clients  net.Listener
	traffic  traffic // of clients
	admin    net.Listener

	standing  []string // warnings that hold as long as the process
	announced sync.Once
	warning   sync.WaitGroup // asking the bucket what should be known of it
	stopWarn  context.CancelFunc

	questions
	waits

	mu        sync.Mutex
	mode      httpapi.Mode      // owned by mu
	reason    string            // owned by mu
	serving   *serving          // owned by mu; nil until a log is served
	reading   *eventlog.Log     // owned by mu; a log that is only read, while there is no serving
	readStore *blockstore.Store // owned by mu; on reading
	fenced    error             // owned by mu
	stopped   error             // owned by mu; why nothing is shipped any more, though this server is not fenced
	owner     string            // owned by mu; who owns the log when fenced, "" while that is not known
	warnings  []string          // owned by mu; of the bucket
	lossy     string            // owned by mu; why this start is, "" when it is not
}

func newApp(cfg *Config, log *slog.Logger) *app {
	return &app{cfg: cfg, log: log, metrics: metrics.New(), started: time.Now(), door: newDoor(), mode: httpapi.ModeStarting, reason: "starting"}
}

// run serves until ctx ends, then stops in order. ErrFenced when another
// server took the log over meanwhile.
func (a *app) run(ctx context.Context) (err error) {
	defer a.boundStop(ctx, stopAtLast, os.Exit)()
	if err := a.open(ctx); err != nil {
		return errors.Join(err, a.closeAll())
	}
	defer func() { err = errors.Join(err, a.closeAll()) }()
	stopAdmin := a.serveAdmin()
	defer stopAdmin()
	stopLooking, err := a.keepAlive()
	if err != nil {
		return err
	}
	defer stopLooking()
	clients, err := a.serveClients()
	if err != nil {
		return err
	}
	defer a.heedHangups()() // a start can last as long as the archive is away
	defer obeyBounds(ctx, a.dir.Path(boundsName), a.reads)()
	if err := a.start(ctx); err != nil && ctx.Err() == nil {
		return errors.Join(err, a.stop(clients))
	}
	return errors.Join(a.await(ctx, clients), a.stop(clients))
}

// open takes everything that can be had without the archive's answer.
func (a *app) open(ctx context.Context) (err error) {
	if a.dir, err = archiver.OpenStateDir(a.cfg.Data); err != nil {
		return err
	}
	state := a.dir.State()
	if state.Phase != archiver.PhaseReady {
		return withCode(exitUsage, fmt.Errorf("%s is %s: finish `strandline init` or `strandline recover` first", a.cfg.Data, state.Phase))
	}
	if state.AsOf != 0 && !a.cfg.Hold {
		return withCode(exitRefused, fmt.Errorf("%s holds the state as of event %s, for looking: serve it with --hold, or recover again without --until", a.cfg.Data, state.AsOf))
	}
	given, err := absolute(a.cfg.Archive)
	if err != nil {
		return withCode(exitUsage, err)
	}
	if a.cfg.Archive != "" && given != state.Archive {
		return usagef("--archive %s: this state directory's archive is %s; leave --archive out", withoutSecrets(a.cfg.Archive), state.Archive)
	}
	bucket := &lazyBucket{spec: state.Archive, singleWriter: state.SingleWriter || a.cfg.SingleWriter}
	a.bucket = archiver.Observed(bucket, a.metrics.ObserveArchive)
	a.archive = archiver.At(a.bucket, state.LogID)
	a.archive.SetLogger(a.log)
	a.reads = archiver.Adaptive(a.bucket, archiver.AdaptiveOptions{})
	a.history = a.archive.Through(a.reads)
	if a.cfg.HtpasswdFile != "" {
		if a.auth, err = resticapi.OpenAuth(a.cfg.HtpasswdFile, a.log); err != nil {
			return withCode(exitUsage, err)
		}
	}
	if a.feed, err = a.startFeed(ctx, state.LogID); err != nil {
		return err
	}
	if a.clients, err = listen("listen", a.cfg.Listen); err != nil {
		return err
	}
	if a.admin, err = listen("admin", a.cfg.Admin); err != nil {
		return err
	}
	a.standing = descriptorWarnings(descriptors(), a.cfg.MaxConnections)
	for _, text := range a.standing {
		a.log.Warn(text)
	}
	a.metrics.Watch(a.gauges)
	a.warn(ctx, bucket)
	if a.views, err = openViews(a.dir.Path("views"), projector.Live, a.log); err != nil {
		return err
	}
	a.progress = progress.New(nil, a.log)
	a.progress.Explain(readingOf(a.reads), a.cfg.Data)
	a.views.progress = a.progress
	if state.AsOf == 0 { // else the archive's end is not what is shown
		a.views.archive = a.history
	}
	a.views.building = func() {
		const reason = "views are being built from the archive, and nothing is sure before; `strandline status` shows how far they are"
		a.setMode(httpapi.ModeStarting, reason)
		a.door.shut(reason)
	}
	a.views.waivers = func() []archiver.Waiver { return a.dir.State().Waivers }
	return nil
}

func listen(flag string, addr Address) (net.Listener, error) {
	ln, err := net.Listen("tcp", string(addr))
	if err != nil {
		return nil, withCode(exitUsage, fmt.Errorf("--%s %s: %w; is another server running? Write --%s with a free port", flag, addr, err, flag))
	}
	return ln, nil
}

func (a *app) startFeed(ctx context.Context, logID eventlog.ID) (*feed.Feed, error) {
	var password []byte
	if a.cfg.NATSPasswordFile != "" {
		var err error
		if password, err = os.ReadFile(a.cfg.NATSPasswordFile); err != nil {
			return nil, withCode(exitUsage, fmt.Errorf("--nats-password-file: %w", err))
		}
	}
	return feed.Start(ctx, feed.Options{
		LogID: logID, URL: a.cfg.NATSURL, CredsFile: a.cfg.NATSCreds,
		ListenAddr: string(a.cfg.NATSListen), ListenPassword: strings.TrimRight(string(password), "\r\n"), Logger: a.log,
	})
}

// start goes through the start procedure until the log is served. While the
// archive does not answer, reads are served from what is here.
func (a *app) start(ctx context.Context) error {
	if a.cfg.Hold {
		return a.hold(ctx)
	}
	answered := 0 // tries that failed although the archive answered at first
	reached, err := a.tryStart(ctx)
	for err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if reached && !errors.Is(err, archiver.ErrNotTaken) && !errors.Is(err, archiver.ErrOlderState) {
			answered++
		}
		var coded *codedError
		final := errors.As(err, &coded) || answered == maxAnswered || a.views.err() != nil
		if code := classify(err); final || code != exitError && code != exitUnavailable {
			return err
		}
		a.log.Warn("the start did not come to its end; serving reads only until the archive answers", "archive", a.bucket.String(), "error", err)
		if err := a.serveReads(ctx, err); err != nil {
			return err
		}
		a.setMode(httpapi.ModeStarting, "the archive answers again: starting")
		a.door.shut("the server is starting")
		a.closeReading()
		reached, err = a.tryStart(ctx)
	}
	return nil
}

// maxAnswered is how often a start may fail although the archive answers and
// takes objects: each try claims an epoch, and what is wrong is hardly the
// network.
const maxAnswered = 3

// tryStart reads the WAL and runs the start procedure once. reached says that
// the archive answered.
func (a *app) tryStart(ctx context.Context) (reached bool, err error) {
	first, cancel := context.WithTimeout(ctx, firstTry)
	found, err := archiver.Open(first, a.bucket)
	cancel()
	if errors.Is(err, archiver.ErrNoArchive) {
		// This directory knows that there is one: it is away, not absent.
		return false, fmt.Errorf("%s is missing in %v: is it the right bucket, is the disk mounted? Do not run init there", archiver.ManifestKey, a.bucket)
	}
	if err != nil {
		return false, err
	}
	if found.LogID() != a.archive.LogID() {
		return true, fmt.Errorf("%w: this state directory is of log %s, %v holds %s", archiver.ErrOtherLog, a.archive.LogID(), a.bucket, found.LogID())
	}
	if err := a.views.open(); err != nil { // those that an earlier try could not
		return true, err
	}
	wal, err := readWAL(a.dir, a.views.positions()...)
	if err != nil {
		return true, withCode(classify(err), err)
	}
	for _, cut := range wal.Cuts() {
		a.log.Warn("bytes of the WAL were left out and are kept in aside/", "what", cut)
	}
	start := &archiver.Start{
		Dir: a.dir, Archive: a.history, WAL: wal, Views: a.views, TakeOver: a.cfg.TakeOver, Waivers: a.waivers,
		Host: hostname(), Now: time.Now, Logger: a.log,
	}
	started, err := start.Run(ctx)
	if err != nil {
		return true, err
	}
	if err := a.serveLog(started); err != nil {
		return true, withCode(classify(err), err)
	}
	return true, nil
}

// serveLog opens the log behind what the start procedure found, and lets
// clients in.
func (a *app) serveLog(started *archiver.Started) error {
	s, err := a.newServing(started)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.serving, a.lossy = s, started.Lossy
	a.mu.Unlock()
	s.begin()
	a.door.open(s.store)
	a.unlessEnded(func() { a.mode, a.reason = httpapi.ModeServing, "" })
	a.announce()
	a.log.Info("serving", "policy", a.policy(), "epoch", started.Head.Epoch, "last", started.Last.String(), "archived", started.Archived.String(), "took", time.Since(a.started).Round(time.Millisecond).String())
	return nil
}

func (a *app) setMode(mode httpapi.Mode, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mode, a.reason = mode, reason
}

// clientServer is the client listener being served.
type clientServer struct {
	http        *http.Server
	served      chan error // what serving ended with
	closeAccess func()
}

// serveClients serves the client listener. Until the door opens, everybody is
// told to come back.
func (a *app) serveClients() (*clientServer, error) {
	access, closeAccess, err := a.openAccessLog()
	if err != nil {
		return nil, err
	}
	config := resticapi.Config{
		Store: a.door, Auth: a.auth, MaxBody: int64(a.cfg.MaxBody), AccessLog: access, Observer: a.metrics, Log: a.log,
	}
	serverConfig := resticapi.ServerConfig{Handler: a.traffic.watch(resticapi.NewHandler(config)), Log: a.log}
	if a.cfg.TLS {
		serverConfig.CertFile, serverConfig.KeyFile = a.cfg.TLSCert, a.cfg.TLSKey
	}
	server, err := resticapi.NewServer(serverConfig)
	if err != nil {
		closeAccess()
		return nil, withCode(exitUsage, err)
	}
	limitConnections(server, a.cfg.MaxConnections, a.log)
	if a.cfg.NoAuth && !loopback(a.clients.Addr()) {
		a.log.Warn("everybody who reaches this address may read and write every backup: --no-auth beyond loopback", "listen", a.clients.Addr().String())
	}
	c := &clientServer{http: server, served: make(chan error, 1), closeAccess: closeAccess}
	go a.parts.do("the client listener", func() { c.served <- resticapi.Serve(server, a.clients) })
	return c, nil
}

// announce prints the line that restic's own tests wait for, once.
func (a *app) announce() {
	a.announced.Do(func() {
		fmt.Fprintf(os.Stderr, "start server on %s\n", a.clients.Addr())
		a.notify("READY=1\nSTATUS=clients are answered")
	})
}

// await returns when ctx ends, or when the client listener does, which is an
// error.
func (a *app) await(ctx context.Context, clients *clientServer) error {
	select {
	case err := <-clients.served:
		clients.served <- err
		return fmt.Errorf("the client listener stopped: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// heedHangups reads the htpasswd file again at every SIGHUP, until the
// function returned is called.
func (a *app) heedHangups() (stop func()) {
	hangups, ended := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		defer close(ended)
		for range hangups {
			a.reload()
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(hangups)
		<-ended
	}
}

func loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

func (a *app) reload() {
	if a.auth == nil {
		return
	}
	if err := a.auth.Reload(); err != nil {
		a.log.Error("reading the htpasswd file again; the users read before stay", "error", err)
		return
	}
	a.log.Info("htpasswd file read again")
}

// stop ends in order: no new requests, those under way, the log, its shipping.
func (a *app) stop(clients *clientServer) error {
	a.setMode(httpapi.ModeStopping, "the server is stopping")
	a.notify("STOPPING=1\nSTATUS=stopping: what is acknowledged is shipped")
	deadline := time.Now().Add(stopShipping)
	ctx, cancel := context.WithTimeout(context.Background(), stopRequests)
	defer cancel()
	a.waitsFor("requests that are under way")
	if err := clients.http.Shutdown(ctx); err != nil {
		a.log.Warn("requests were still under way and are cut off", "error", err)
		if err := clients.http.Close(); err != nil {
			a.log.Warn("closing the client listener", "error", err)
		}
	}
	err := <-clients.served
	clients.closeAccess()
	a.door.shut("the server is stopping")
	a.closeReading()
	a.mu.Lock()
	s := a.serving
	a.mu.Unlock()
	if s != nil {
		return errors.Join(err, s.stop(deadline))
	}
	a.sayUnshipped()
	return err
}

// sayUnshipped tells what a server that never came to serve leaves in its WAL
// for the next start.
func (a *app) sayUnshipped() {
	wal, err := readWAL(a.dir)
	if err != nil {
		return // the start has said so
	}
	mark := a.dir.State().Archived
	events := 0
	for _, g := range wal.Generations() {
		if mark != nil && g.Ordinal <= mark.Ordinal {
			continue
		}
		entries, err := g.Entries()
		if err != nil {
			a.log.Warn("counting what is not archived", "error", err)
			return
		}
		events += len(entries)
	}
	if events > 0 {
		a.log.Warn(fmt.Sprintf("at most %d events unshipped: they are safe in %s and the next start that reaches the archive ships them", events, a.dir.Path("wal")))
	}
}

// policy says in a few words what clients may do and what answers wait for.
func (a *app) policy() string {
	text := "answers wait for " + string(a.cfg.Ack)
	if a.cfg.AppendOnly {
		text = "APPEND-ONLY: nothing but locks may be deleted; " + text
	}
	if a.cfg.MaxSize > 0 {
		text += fmt.Sprintf("; each account may hold %s", a.cfg.MaxSize)
	}
	if a.cfg.NoAuth {
		text += "; no passwords"
	}
	return text
}

// closeAll gives back what open took.
func (a *app) closeAll() error {
	var err error
	a.waitsFor("questions to the bucket that are under way")
	if a.stopWarn != nil {
		a.stopWarn()
	}
	a.warning.Wait()
	a.progress.Close()
	if a.views != nil {
		a.waitsFor("the views to be closed")
		err = a.views.Close()
	}
	a.waitsFor("listeners and feed to be closed")
	for _, ln := range []net.Listener{a.clients, a.admin} {
		if ln == nil {
			continue
		}
		if closeErr := ln.Close(); closeErr != nil && !errors.Is(closeErr, net.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}
	if a.feed != nil {
		a.feed.Close()
	}
	if a.dir != nil {
		a.waitsFor("the state directory to be closed")
		err = errors.Join(err, a.dir.Close())
	}
	return err
}
