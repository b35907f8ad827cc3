// SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/lifecycle"
)

// maxSkew is how far the clocks may be apart without a warning. Stores refuse
// requests at 15 minutes.
const maxSkew = 5 * time.Minute

// Warnings asks the store for what endangers an archive in it, and returns a
// sentence for each: lifecycle rules that would delete or move our objects,
// and a clock far from the store's. That it could not ask is a warning too.
func (b *Bucket) Warnings(ctx context.Context) []string {
	var warnings []string
	config, err := b.core.GetBucketLifecycle(ctx, b.name)
	var response minio.ErrorResponse
	switch {
	case errors.As(err, &response) && (response.Code == "NoSuchLifecycleConfiguration" || response.StatusCode == 501):
	case err != nil:
		warnings = append(warnings, fmt.Sprintf("the lifecycle rules of %v cannot be read (%v): make sure that none deletes or moves objects under it", b, err))
	default:
		warnings = append(warnings, b.lifecycleWarnings(config.Rules)...)
	}
	if skew := time.Duration(b.clock.skew.Load()); skew.Abs() > maxSkew {
		warnings = append(warnings, fmt.Sprintf("this machine's clock is %v off that of %v: set it, or the store will refuse requests", skew.Round(time.Second), b))
	}
	return warnings
}

func (b *Bucket) lifecycleWarnings(rules []lifecycle.Rule) []string {
	var warnings []string
	for _, rule := range rules {
		harmful := !rule.Expiration.IsNull() || !rule.Transition.IsNull()
		if rule.Status != "Enabled" || !harmful || !b.reaches(rule) {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("the lifecycle rule %q of %v deletes or moves objects of the archive: remove it, history would be lost", rule.ID, b))
	}
	return warnings
}

// reaches reports whether a rule applies to any key of ours.
func (b *Bucket) reaches(rule lifecycle.Rule) bool {
	prefix := rule.Prefix
	switch {
	case rule.RuleFilter.Prefix != "":
		prefix = rule.RuleFilter.Prefix
	case rule.RuleFilter.And.Prefix != "":
		prefix = rule.RuleFilter.And.Prefix
	}
	if !rule.RuleFilter.Tag.IsEmpty() || len(rule.RuleFilter.And.Tags) > 0 {
		return false // our objects have no tags
	}
	return strings.HasPrefix(prefix, b.prefix) || strings.HasPrefix(b.prefix, prefix)
}
