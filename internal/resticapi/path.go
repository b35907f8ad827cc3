// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/blockstore"
)

// what a path names.
type what int

const (
	wantNothing what = iota
	wantMachine      // /alice/laptop/
	wantList         // /alice/laptop/data/
	wantBlock        // /alice/laptop/data/0123…, /alice/laptop/config
)

// target is a parsed path.
type target struct {
	what   what
	path   blockstore.Path
	folder string // restic's name of ref.Kind; empty for wantMachine
	ref    blockstore.Ref
}

const configName = "config"

var folders = map[string]eventlog.Kind{
	"data":      eventlog.KindData,
	"index":     eventlog.KindIndex,
	"snapshots": eventlog.KindRoot,
	"keys":      eventlog.KindKey,
	"locks":     eventlog.KindLock,
}

// parsePath takes an escaped URL path apart:
//
//	/<account>/[<machine>/]                     the machine
//	/<account>/[<machine>/]<folder>/            a list
//	/<account>/[<machine>/]<folder>/<64 hex>    a block
//	/<account>/[<machine>/]config               the config
//
// A component with the name of a folder, or config, ends the machine's path.
// Everything else is a refusal with 404: slashes, backslashes or NULs behind
// an escape, empty components, dots, upper-case ids, one component too many.
func parsePath(escaped string) (target, error) {
	parts, err := splitPath(escaped)
	if err != nil {
		return target{}, err
	}
	t := target{path: blockstore.Path{Account: parts[0]}}
	rest := parts[1:]
	if rest[0] != "" && !isFolder(rest[0]) {
		t.path.Machine, rest = rest[0], rest[1:]
		if strings.Contains(t.path.Machine, "@") {
			return target{}, errAsOf
		}
	}
	if err := t.path.Check(); err != nil {
		return target{}, &refusal{status: http.StatusNotFound, text: err.Error()}
	}
	return t, t.parseRest(rest)
}

// parseRest reads what follows the machine's name.
func (t *target) parseRest(rest []string) error {
	switch {
	case len(rest) == 0:
		return notFound("a repository's URL ends with a slash")
	case len(rest) == 1 && rest[0] == "":
		t.what = wantMachine
		return nil
	case len(rest) == 1 && rest[0] == configName:
		t.what, t.folder, t.ref.Kind = wantBlock, configName, eventlog.KindConfig
		return nil
	case len(rest) == 2:
		return t.parseFolder(rest[0], rest[1])
	}
	return notFound("the path has a component too many, or lacks its last slash")
}

// parseFolder reads "<folder>/" and "<folder>/<id>".
func (t *target) parseFolder(folder, id string) error {
	kind, known := folders[folder]
	if !known {
		return notFound("no such folder: data, index, keys, locks and snapshots are")
	}
	if id == "" {
		t.what, t.folder, t.ref.Kind = wantList, folder, kind
		return nil
	}
	name, ok := parseID(id)
	if !ok {
		return notFound("a file's name is 64 lower-case hexadecimal digits")
	}
	t.what, t.folder, t.ref = wantBlock, folder, blockstore.Ref{Kind: kind, Name: name}
	return nil
}

// splitPath returns at least two decoded components; only the last may be
// empty, for a path that ends with a slash.
func splitPath(escaped string) ([]string, error) {
	if escaped == "" || escaped == "/" {
		return nil, errBarePath
	}
	rest, rooted := strings.CutPrefix(escaped, "/")
	parts := strings.Split(rest, "/")
	if !rooted || len(parts) < 2 {
		return nil, notFound("a repository's URL ends with a slash")
	}
	for i, p := range parts {
		decoded, err := url.PathUnescape(p)
		last := i == len(parts)-1
		if err != nil || !utf8.ValidString(decoded) || strings.ContainsAny(decoded, "/\\\x00") ||
			decoded == "." || decoded == ".." || decoded == "" && !last {
			return nil, notFound("not a path of this server")
		}
		parts[i] = decoded
	}
	return parts, nil
}

func isFolder(s string) bool {
	_, known := folders[s]
	return known || s == configName
}

func parseID(s string) (name [32]byte, ok bool) {
	if len(s) != 2*len(name) || strings.ToLower(s) != s {
		return name, false
	}
	n, err := hex.Decode(name[:], []byte(s))
	return name, err == nil && n == len(name)
}
