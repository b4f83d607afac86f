// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"

	"google.golang.org/grpc/codes"

	"cocoon/agent/policy"
	"cocoon/internal/wire/agentpb"
)

func TestLayersThatNothingChecksAreRefusedUnlessThePolicySaysSo(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		code codes.Code
		says string
	}{
		"": {codes.PermissionDenied, `layer "0:9" without dm-verity: nothing checks what the host has put there, and the policy does not say AllowUncheckedLayers`},
		policy.AllowAll() + "\nAllowUncheckedLayers := true": {codes.Internal, "0:9"}, // there is no such disk
	} {
		g := newGuest(t, guestOptions{policy: text})
		r := g.container("c1", "true")
		r.Storages = []*agentpb.Storage{{
			Driver: "scsi", Source: "0:9", Fstype: "erofs", MountPoint: g.paths.bundle("c1") + "/rootfs", Options: []string{"X-kata.multi-layer=true", "X-kata.overlay-lower"},
		}}
		_, err := g.CreateContainer(limited(t), r)
		wantStatus(t, err, want.code, want.says)
	}
}
