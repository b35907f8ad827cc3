// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package progress

// measureUsage tells nothing here: what binds is judged by waiting alone.
func measureUsage() usage { return usage{} }
