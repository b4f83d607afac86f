// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// maxMistakes is how many mistakes of a policy text one error lists. Later ones
// are mostly consequences of the first.
const maxMistakes = 5

// mistakes turns what the compiler found into one line that names the lines of
// the text. The compiler's own form draws the source with carets below it.
func mistakes(err error) error {
	found, ok := errors.AsType[ast.Errors](err)
	if !ok {
		return err
	}
	var list []string
	for _, e := range found[:min(len(found), maxMistakes)] {
		text := strings.Join(strings.Fields(e.Message), " ")
		if e.Location != nil {
			text = fmt.Sprintf("line %d: %s", e.Location.Row, text)
		}
		list = append(list, text)
	}
	if more := len(found) - maxMistakes; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return errors.New(strings.Join(list, "; "))
}
