// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// demoLimit is how much of the directory the demo copies.
const demoLimit = 256 << 20

// demoGrowth is how much the demo adds between two backups, in files of a
// megabyte that no client can shrink: enough for a backup to have a middle.
const demoGrowth = 96

// copyTree copies the files, directories and symbolic links below source to
// target, until demoLimit bytes are copied.
func copyTree(ctx context.Context, source, target string) (string, error) {
	var files int
	var size int64
	partly := false
	err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		to := filepath.Join(target, rel)
		switch {
		case entry.IsDir():
			return os.MkdirAll(to, 0o755)
		case entry.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, to)
		case !entry.Type().IsRegular():
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if size+info.Size() > demoLimit {
			partly = true
			return nil
		}
		files, size = files+1, size+info.Size()
		return copyFile(path, to, info.Mode().Perm())
	})
	detail := fmt.Sprintf("%d files, %.1f MiB", files, mib(size))
	if partly {
		detail += ", the rest is over the limit and left out"
	}
	return detail, err
}

func copyFile(from, to string, perm fs.FileMode) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // read only
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// changeTree adds files, so that the next backup has something to do.
func changeTree(dir string) (string, error) {
	added := filepath.Join(dir, "added-by-the-demo")
	if err := os.MkdirAll(added, 0o755); err != nil {
		return "", err
	}
	data := make([]byte, 1<<20)
	for i := range demoGrowth {
		rand.Read(data) //nolint:errcheck // never fails: it ends the program instead
		if err := os.WriteFile(filepath.Join(added, fmt.Sprintf("%03d", i)), data, 0o644); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d files of 1 MiB added", demoGrowth), nil
}

// compareTrees returns an error unless both trees hold the same names, kinds,
// permissions, link targets and bytes.
func compareTrees(want, got string) (string, error) {
	var files int
	var size int64
	err := filepath.WalkDir(want, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		n, err := compareOne(path, filepath.Join(got, rel), rel, entry)
		if err != nil {
			return err
		}
		files, size = files+1, size+n
		return nil
	})
	if err != nil {
		return "", err
	}
	extra, err := countTree(got)
	if err == nil && extra != files {
		err = fmt.Errorf("%d names were backed up, %d restored", files, extra)
	}
	return fmt.Sprintf("%d names, %.1f MiB, all equal", files, mib(size)), err
}

func compareOne(want, got, rel string, entry fs.DirEntry) (int64, error) {
	a, err := os.Lstat(want)
	if err != nil {
		return 0, err
	}
	b, err := os.Lstat(got)
	if err != nil {
		return 0, err
	}
	if a.Mode() != b.Mode() && rel != "." { // the root was made by the client
		return 0, fmt.Errorf("%s was %s, restored as %s", want, a.Mode(), b.Mode())
	}
	switch {
	case entry.IsDir():
		return 0, nil
	case entry.Type()&fs.ModeSymlink != 0:
		return 0, compareLinks(want, got)
	}
	x, err := os.ReadFile(want)
	if err != nil {
		return 0, err
	}
	y, err := os.ReadFile(got)
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(x, y) {
		return 0, fmt.Errorf("%s: the restored bytes differ", want)
	}
	return int64(len(x)), nil
}

func compareLinks(want, got string) error {
	x, err := os.Readlink(want)
	if err != nil {
		return err
	}
	y, err := os.Readlink(got)
	if err != nil {
		return err
	}
	if x != y {
		return fmt.Errorf("%s pointed to %s, restored to %s", want, x, y)
	}
	return nil
}

func countTree(dir string) (int, error) {
	n := 0
	err := filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error { n++; return err })
	return n, err
}
