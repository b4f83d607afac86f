// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/internal/safepath"
	"cocoon/internal/wire/agentpb"
)

// The times between which a clock may be set, in seconds since 1970. Outside
// lie empty requests, and times at which this program did not exist yet.
var (
	earliest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	latest   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
)

// SetGuestDateTime sets the guest's clock. By that clock certificates and
// tokens are judged, so a policy that does not trust the host with it, as those
// of genpolicy do not, refuses the request before it comes here.
func (s *service) SetGuestDateTime(_ context.Context, r *agentpb.SetGuestDateTimeRequest) (*emptypb.Empty, error) {
	sec, usec := r.GetSec(), r.GetUsec()
	if sec < earliest || sec >= latest || usec < 0 || usec >= 1e6 {
		return nil, fmt.Errorf("time of %d s and %d µs: %w", sec, usec, ErrInvalid)
	}
	tv := unix.NsecToTimeval(sec*1e9 + usec*1e3)
	if err := s.deps.SetTime(&tv); err != nil {
		return nil, fmt.Errorf("set the clock: %w", err)
	}
	s.deps.Log.Warn("the host has set the guest's clock")
	return &emptypb.Empty{}, nil
}

// GetVolumeStats tells how full a volume is. The volume has to lie below the
// run directory, where the host has volumes mounted: it learns nothing about
// the rest of the guest's file systems.
func (s *service) GetVolumeStats(_ context.Context, r *agentpb.VolumeStatsRequest) (_ *agentpb.VolumeStatsResponse, err error) {
	volume := r.GetVolumeGuestPath()
	if len(volume) >= unix.PathMax || path.Clean(volume) != volume || !below(s.deps.Paths.Run, volume) {
		return nil, fmt.Errorf("volume %.256q is not below the run directory: %w", volume, ErrInvalid)
	}
	root, err := safepath.OpenRoot(s.deps.Paths.Run)
	if err != nil {
		return nil, fmt.Errorf("measure a volume: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	dir, err := root.Open(volume[len(s.deps.Paths.Run)+1:], unix.O_PATH, 0)
	if err != nil {
		return nil, fmt.Errorf("measure a volume: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return nil, fmt.Errorf("measure volume %.256q: %w", volume, err)
	}
	return volumeStats(&st), nil
}

// volumeStats counts bytes and inodes. What the file system keeps for root is
// neither used nor available.
func volumeStats(st *unix.Statfs_t) *agentpb.VolumeStatsResponse {
	unit := uint64(max(st.Frsize, 0))
	return &agentpb.VolumeStatsResponse{
		Usage: []*agentpb.VolumeUsage{
			{Unit: agentpb.VolumeUsage_BYTES, Total: st.Blocks * unit, Available: st.Bavail * unit, Used: used(st.Blocks, st.Bfree) * unit},
			{Unit: agentpb.VolumeUsage_INODES, Total: st.Files, Available: st.Ffree, Used: used(st.Files, st.Ffree)},
		},
		VolumeCondition: &agentpb.VolumeCondition{Message: "OK"},
	}
}

// used is what is not free. A file system that counts more free than there is,
// as some without a fixed number of inodes do, has used none.
func used(total, free uint64) uint64 { return total - min(free, total) }
