// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Store is an S3 server that was started for a measurement.
type Store struct {
	Endpoint string   // http://127.0.0.1:PORT
	Env      []string // its credentials, for a client
	PID      int
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
	env := []string{"MINIO_ROOT_USER=" + storeKey, "MINIO_ROOT_PASSWORD=" + storeSecret, "MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_PROMETHEUS_AUTH_TYPE=public"}
	server, err := launch([]string{path, "server", "--quiet", "--address", addr, dir}, env, log)
	if err != nil {
		return nil, err
	}
	s := &Store{Endpoint: "http://" + addr, server: server, PID: server.cmd.Process.Pid,
		Env: []string{"AWS_ACCESS_KEY_ID=" + storeKey, "AWS_SECRET_ACCESS_KEY=" + storeSecret}}
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

// traffic is what the server has counted since its start. Its older metrics are
// up to 10 s old; these are not.
func (s *Store) traffic(ctx context.Context) (*Traffic, error) {
	seen, err := scrape(ctx, s.Endpoint+"/minio/metrics/v3/api/requests")
	if err != nil {
		return nil, err
	}
	var t Traffic
	err = errors.Join(seen.get("minio_api_requests_total", &t.Requests),
		seen.get("minio_api_requests_traffic_received_bytes", &t.Received), seen.get("minio_api_requests_traffic_sent_bytes", &t.Sent))
	return &t, err
}

// Stop ends the server.
func (s *Store) Stop() error { return s.server.stop() }

// OnMinIO is the peer that make returns for a MinIO server, whose program is at
// path and which is started with it, and for its bucket.
func OnMinIO(path string, make func(archive string, env []string) Peer) Peer {
	return Peer{Name: make("", nil).Name, Start: func(ctx context.Context, dir string) (*Instance, error) {
		store, err := startBucket(ctx, path, dir)
		if err != nil {
			return nil, err
		}
		instance, err := make("s3://"+storeBucket+"/archive?endpoint="+store.Endpoint, store.Env).Start(ctx, dir)
		if err != nil {
			return nil, errors.Join(err, store.Stop())
		}
		stop := instance.Stop
		instance.Store, instance.Stop = store, func() error { return errors.Join(stop(), store.Stop()) }
		return instance, nil
	}}
}

// ResticOnMinIO is restic without a server between it and a MinIO server, whose
// program is at path.
func ResticOnMinIO(path string) Peer {
	return Peer{Name: "restic on MinIO", Start: func(ctx context.Context, dir string) (*Instance, error) {
		store, err := startBucket(ctx, path, dir)
		if err != nil {
			return nil, err
		}
		return &Instance{Repository: "s3:" + store.Endpoint + "/" + storeBucket + "/restic", Store: store, Stop: store.Stop}, nil
	}}
}

// storeBucket is the bucket of startBucket's stores.
const storeBucket = "bench"

// startBucket starts a MinIO server with its data in dir, and with a bucket.
func startBucket(ctx context.Context, path, dir string) (*Store, error) {
	data := filepath.Join(dir, "minio")
	if err := os.MkdirAll(filepath.Join(data, storeBucket), 0o700); err != nil { // MinIO takes a folder for a bucket
		return nil, fmt.Errorf("make a bucket: %w", err)
	}
	return StartMinIO(ctx, path, data, filepath.Join(dir, "minio.log"))
}
