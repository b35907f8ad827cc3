// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/strandline-project/strandline/internal/durable"
)

// note is the form of what a phase leaves for the next one: it says whether it
// is whole and unchanged.
type note struct {
	SHA256  string          `json:"sha256"` // of content
	Content json.RawMessage `json:"content"`
}

// maxNote is more than any note has.
const maxNote = 1 << 20

// errNote says that what a begun recovery left cannot be trusted.
var errNote = errors.New("what the interrupted recovery noted is damaged or was edited: remove the directory and recover again")

// writeNote writes content to path, atomically and durably.
func writeNote(path string, content any) error {
	body, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("note in %s: %w", path, err)
	}
	sum := sha256.Sum256(body)
	file, err := json.Marshal(note{SHA256: hex.EncodeToString(sum[:]), Content: body})
	if err == nil {
		err = durable.Mkdir(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = durable.WriteFile(path, file, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note in %s: %w", path, err)
	}
	return nil
}

// readNote reads what writeNote wrote into content; false when there is none.
func readNote(path string, content any) (found bool, err error) {
	stat, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err == nil && stat.Size() > maxNote {
		return false, fmt.Errorf("%s: %w (it has %d bytes)", path, errNote, stat.Size())
	}
	var raw []byte
	if err == nil {
		raw, err = os.ReadFile(path)
	}
	if err != nil {
		return false, fmt.Errorf("read what the interrupted recovery noted: %w", err)
	}
	return true, decodeNote(path, raw, content)
}

func decodeNote(path string, raw []byte, content any) error {
	var file note
	if err := json.Unmarshal(raw, &file); err != nil {
		return fmt.Errorf("%s: %w (%w)", path, errNote, err)
	}
	if sum := sha256.Sum256(file.Content); hex.EncodeToString(sum[:]) != file.SHA256 {
		return fmt.Errorf("%s: %w (its checksum is wrong)", path, errNote)
	}
	if err := json.Unmarshal(file.Content, content); err != nil {
		return fmt.Errorf("%s: %w (%w)", path, errNote, err)
	}
	return nil
}
