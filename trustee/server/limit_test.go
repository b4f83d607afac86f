// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
)

// plenty is a listener that always has a connection.
type plenty struct{ net.Listener }

func (plenty) Accept() (net.Conn, error) {
	c, _ := net.Pipe()
	return c, nil
}

func (plenty) Close() error { return nil }

func TestAConnectionTooManyWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := limit(plenty{}, 2)
		var open []net.Conn
		for range 2 {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
		third := make(chan net.Conn, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
			}
			third <- c
		}()
		synctest.Wait()
		if len(third) != 0 {
			t.Fatal("a third connection was accepted")
		}
		for range 2 { // the second time must not free another slot
			if err := open[0].Close(); err != nil {
				t.Fatal(err)
			}
		}
		if c := <-third; c == nil {
			t.Fatal("no connection after one ended")
		}
		refused := make(chan error, 1)
		go func() { _, err := l.Accept(); refused <- err }()
		synctest.Wait()
		if len(refused) != 0 {
			t.Fatal("a slot was given back twice")
		}
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
		if err := <-refused; !errors.Is(err, net.ErrClosed) {
			t.Fatalf("waiting while closed: %v", err)
		}
	})
}
