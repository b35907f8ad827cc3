// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// SlowStore is a door to an S3 server that is far away: it lets every request
// wait before it hands it on, and counts it.
type SlowStore struct {
	Endpoint string // http://127.0.0.1:PORT

	server   *http.Server
	served   chan error
	requests atomic.Int64
}

// NewSlowStore opens a door to the server at endpoint. The caller closes it.
func NewSlowStore(endpoint string, delay time.Duration) (*SlowStore, error) {
	target, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("slow store: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("slow store: %w", err)
	}
	proxy := &httputil.ReverseProxy{
		// The host stays the one that the client has signed.
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport: &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true},
	}
	s := &SlowStore{Endpoint: "http://" + listener.Addr().String(), served: make(chan error, 1)}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
			proxy.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
	s.server = &http.Server{Handler: handler, ReadHeaderTimeout: startTimeout}
	go func() { s.served <- s.server.Serve(listener) }()
	return s, nil
}

// Requests is how many requests have come so far.
func (s *SlowStore) Requests() int64 { return s.requests.Load() }

// Close ends all connections.
func (s *SlowStore) Close() error {
	err := s.server.Close()
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Store is an S3 server that was started for a measurement.
type Store struct {
	Endpoint string // http://127.0.0.1:PORT
	Env      []string
	server   *server
}

// The credentials of a Store.
const (
	storeKey    = "strandline-bench"
	storeSecret = "strandline-bench-secret"
)

// StartMinIO starts the MinIO program at path with its data in dir, in which
// each folder is a bucket. The caller stops it.
func StartMinIO(ctx context.Context, path, dir, log string) (*Store, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	env := []string{"MINIO_ROOT_USER=" + storeKey, "MINIO_ROOT_PASSWORD=" + storeSecret, "MINIO_BROWSER=off", "MINIO_UPDATE=off"}
	server, err := launch([]string{path, "server", "--quiet", "--address", addr, dir}, env, log)
	if err != nil {
		return nil, err
	}
	s := &Store{Endpoint: "http://" + addr, server: server, Env: []string{"AWS_ACCESS_KEY_ID=" + storeKey, "AWS_SECRET_ACCESS_KEY=" + storeSecret}}
	if err := s.await(ctx); err != nil {
		return nil, errors.Join(err, server.kill())
	}
	return s, nil
}

// await returns when the server refuses a request without a key: before it is
// ready it does not answer so.
func (s *Store) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/bucket/?list-type=2", nil)
		if err != nil {
			return fmt.Errorf("ask MinIO: %w", err)
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			err = response.Body.Close()
			if response.StatusCode == http.StatusForbidden {
				return err
			}
		}
		select {
		case <-s.server.done:
			return fmt.Errorf("MinIO ended: %s", s.server.said())
		case <-ctx.Done():
			return fmt.Errorf("MinIO does not answer: %w: %s", errors.Join(ctx.Err(), err), s.server.said())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// OnMinIO is the peer that make returns for a MinIO server, whose program is at
// path and which is started with it, and for its bucket.
func OnMinIO(path string, make func(archive string, env []string) Peer) Peer {
	return Peer{Name: make("", nil).Name, Start: func(ctx context.Context, dir string) (*Instance, error) {
		data := filepath.Join(dir, "minio")
		if err := os.MkdirAll(filepath.Join(data, "bench"), 0o700); err != nil { // MinIO takes a folder for a bucket
			return nil, fmt.Errorf("make a bucket: %w", err)
		}
		store, err := StartMinIO(ctx, path, data, filepath.Join(dir, "minio.log"))
		if err != nil {
			return nil, err
		}
		instance, err := make("s3://bench/archive?endpoint="+store.Endpoint, store.Env).Start(ctx, dir)
		if err != nil {
			return nil, errors.Join(err, store.Stop())
		}
		stop := instance.Stop
		instance.Stop = func() error { return errors.Join(stop(), store.Stop()) }
		return instance, nil
	}}
}

// Stop ends the server.
func (s *Store) Stop() error { return s.server.stop() }
