// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package octets is bytes that JSON shows as a list of numbers, as peers written
// in Rust do in evidence.
//
// Trust: what is read may come from anybody. Its size is bounded by whoever has
// read the text around it.
package octets

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ErrList is returned for what is no list of numbers from 0 to 255.
var ErrList = errors.New("no list of numbers")

// Octets is bytes.
type Octets []byte

// MarshalJSON implements json.Marshaler.
func (o Octets) MarshalJSON() ([]byte, error) {
	list := make([]uint16, len(o))
	for i, b := range o {
		list[i] = uint16(b)
	}
	return json.Marshal(list)
}

// UnmarshalJSON implements json.Unmarshaler. A null in the list is an error, but
// null in its place is no bytes.
func (o *Octets) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*o = nil
		return nil
	}
	if len(b) == 0 || b[0] != '[' {
		return fmt.Errorf("%w: %.16q", ErrList, b)
	}
	// Pointers, as a null in the list would else pass for a zero.
	var list []*uint8
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("%w: %w", ErrList, err)
	}
	all := make(Octets, len(list))
	for i, n := range list {
		if n == nil {
			return fmt.Errorf("%w: item %d is null", ErrList, i)
		}
		all[i] = *n
	}
	*o = all
	return nil
}
