// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cca

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Evidence is what the guest hands in.
type Evidence struct {
	Token Token `json:"token"`
}

// Token is the bytes of a CCA token, a list of numbers in JSON.
type Token []byte

// MarshalJSON implements json.Marshaler.
func (t Token) MarshalJSON() ([]byte, error) {
	list := make([]uint16, len(t))
	for i, b := range t {
		list[i] = uint16(b)
	}
	return json.Marshal(list)
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Token) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		return errors.New("want a list of numbers")
	}
	// Pointers, as a null in the list would else pass for a zero.
	var list []*uint8
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	token := make(Token, len(list))
	for i, n := range list {
		if n == nil {
			return fmt.Errorf("item %d is no number", i)
		}
		token[i] = *n
	}
	*t = token
	return nil
}
