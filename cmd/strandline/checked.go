// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/strandline-project/strandline/internal/durable"
)

// checkedFile is the form of a file for people and for this program: it says
// of itself whether it is whole and unchanged.
type checkedFile struct {
	SHA256  string          `json:"sha256"` // of content without white space
	Content json.RawMessage `json:"content"`
}

// maxChecked is more than any such file has.
const maxChecked = 16 << 20

// errEdited says that a checked file is not what was written.
var errEdited = errors.New("it was damaged or edited by hand")

// writeChecked makes content the content of path, durably.
func writeChecked(path string, content any) error {
	body, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	sum := sha256.Sum256(body)
	text, err := json.MarshalIndent(checkedFile{SHA256: hex.EncodeToString(sum[:]), Content: body}, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return durable.WriteFile(path, append(text, '\n'), 0o600)
}

// readChecked reads what writeChecked wrote. A file that is not there is
// fs.ErrNotExist, one that was changed errEdited.
func readChecked(path string, content any) error {
	stat, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if stat.Size() > maxChecked {
		return fmt.Errorf("%s: %w: it has %d bytes", path, errEdited, stat.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := decodeChecked(text, content); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func decodeChecked(text []byte, content any) error {
	var file checkedFile
	if err := json.Unmarshal(text, &file); err != nil {
		return fmt.Errorf("%w: %w", errEdited, err)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, file.Content); err != nil {
		return fmt.Errorf("%w: %w", errEdited, err)
	}
	if sum := sha256.Sum256(body.Bytes()); hex.EncodeToString(sum[:]) != file.SHA256 {
		return fmt.Errorf("%w: its checksum is wrong", errEdited)
	}
	if err := json.Unmarshal(body.Bytes(), content); err != nil {
		return fmt.Errorf("%w: %w", errEdited, err)
	}
	return nil
}
