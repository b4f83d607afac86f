// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/agent/runtime"
	"cocoon/agent/runtime/ocipb"
	"cocoon/agent/storage"
	"cocoon/internal/stage"
	"cocoon/internal/wire/agentpb"
)

// undoLimit bounds taking back a container that could not be made.
const undoLimit = time.Minute

// CreateContainer makes a container whose process waits for StartContainer.
// When it fails nothing is left behind, and the same id can be used again.
func (s *service) CreateContainer(ctx context.Context, r *agentpb.CreateContainerRequest) (*emptypb.Empty, error) {
	if s.deps.Prepare != nil {
		if err := s.deps.Prepare(r); err != nil {
			return nil, fmt.Errorf("prepare container: %w", err)
		}
	}
	if err := s.sandbox.createContainer(ctx, r); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *sandbox) createContainer(ctx context.Context, r *agentpb.CreateContainerRequest) error {
	if err := checkContainerRequest(r); err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	c, err := s.reserve(r.GetContainerId())
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	defer c.give()
	ctx, stop := s.during(ctx)
	defer stop()
	var done undoList
	err = s.build(ctx, c, r, &done)
	if err == nil {
		s.log.Info("container created", "container", c.id)
		return nil
	}
	if cause := context.Cause(ctx); errors.Is(cause, ErrDestroyed) {
		err = errors.Join(cause, err)
	}
	undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	err = errors.Join(err, done.run(undoCtx))
	s.forget(c)
	return fmt.Errorf("create container %q: %w", c.id, err)
}

// build carries out the steps in order and notes how to undo each.
func (s *sandbox) build(ctx context.Context, c *container, r *agentpb.CreateContainerRequest, done *undoList) error {
	spec, err := ocipb.ToSpec(r.GetOCI())
	if err == nil {
		err = checkSpec(spec)
	}
	if err != nil {
		return err
	}
	if err := s.checkPlaces(c.id, r.GetStorages()); err != nil {
		return err
	}
	pod, err := s.joinPod(r.GetSandboxPidns())
	if err != nil {
		return err
	}
	defer pod.close()
	if err := s.makeBundle(c.id); err != nil {
		return err
	}
	done.add(func(context.Context) error { return storage.RemoveTree(s.paths.bundle(c.id)) })
	granted, err := grantDevices(ctx, s.devices, spec, r.GetDevices())
	if err != nil {
		return err
	}
	if err := s.cdi.inject(ctx, spec); err != nil {
		return err
	}
	if err := s.addHooks(spec); err != nil { // a description may have brought some
		return err
	}
	if err := s.takeStore(ctx, spec, granted.nodes); err != nil {
		return err
	}
	// Noted first: what a step in the middle has attached is released as well.
	done.add(func(ctx context.Context) error { return s.storages.Detach(ctx, c.id) })
	if err := s.storages.Attach(ctx, c.id, r.GetStorages()); err != nil {
		return err
	}
	if err := checkImageDigest(s.storages.ImageDigest(c.id), spec.Annotations); err != nil {
		return err
	}
	if err := s.adapt(ctx, spec, r); err != nil {
		return err
	}
	setNamespaces(spec, pod.shared, pod.pidPath())
	if err := s.setRoot(ctx, c.id, spec); err != nil {
		return stage.Wrap(stage.Mount, err)
	}
	rt, err := s.runtime.Create(ctx, runtime.CreateRequest{ID: c.id, Bundle: s.paths.bundle(c.id), Spec: spec})
	if err != nil {
		return stage.Wrap(stage.Container, err)
	}
	done.add(rt.Delete)
	return s.publish(c, made{rt: rt, spec: spec, pause: isPause(r), pci: granted.pci})
}

func (s *sandbox) addHooks(spec *specs.Spec) error {
	s.mu.Lock()
	guest := s.hooks
	s.mu.Unlock()
	return addHooks(spec, guest, s.paths.isImageFile)
}

// checkPlaces lets the storages of a container, or of the sandbox if id is
// empty, be mounted in the container's bundle and in what the pod shares. A
// place in the bundle of another container is refused even if there is none of
// that id yet: it may be made while an earlier storage of the list is attached.
// In the image store the host could replace layers that were verified.
func (s *sandbox) checkPlaces(id string, list []*agentpb.Storage) error {
	for _, st := range list {
		rel, ok := strings.CutPrefix(st.GetMountPoint(), s.paths.Run+"/")
		if !ok {
			continue // the storage manager refuses it, with the reason
		}
		first, _, _ := strings.Cut(rel, "/")
		if first == id || first == "sandbox" || first == "shared" {
			continue
		}
		return fmt.Errorf("storage %q at %q, which is no place of the container or the pod: %w", st.GetDriver(), st.GetMountPoint(), ErrInvalid)
	}
	return nil
}

// adapt replaces what the guest decides for itself: the pause process, sealed
// secrets, and paths that lead through shared directories.
func (s *sandbox) adapt(ctx context.Context, spec *specs.Spec, r *agentpb.CreateContainerRequest) error {
	if isPause(r) {
		spec.Process = pauseProcess()
	}
	if err := s.unsealEnv(ctx, spec.Process.Env); err != nil {
		return err
	}
	if err := s.unsealFiles(ctx, spec.Mounts); err != nil {
		return err
	}
	return stage.Wrap(stage.Mount, s.confineMounts(s.paths.bundle(r.GetContainerId()), spec.Mounts))
}

// made is a container that the runtime has made, on its way to the books.
type made struct {
	rt    *runtime.Container
	spec  *specs.Spec
	pause bool
	pci   map[string]string
}

// publish makes a container known to other calls. The first one's pid
// namespace becomes the pod's.
func (s *sandbox) publish(c *container, m made) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", m.rt.InitPID()))
	if err != nil {
		return fmt.Errorf("open pid namespace: %w", err)
	}
	s.mu.Lock()
	err = s.alive()
	if err == nil {
		c.rt, c.pause, c.notes, c.pci = m.rt, m.pause, m.spec.Annotations, m.pci
		for _, mount := range m.spec.Mounts {
			c.mounts = append(c.mounts, mountRecord{mount.Destination, mount.Source})
		}
		if s.pidNS == nil {
			s.pidNS, s.pidOwner, ns = ns, c, nil
		}
	}
	s.mu.Unlock()
	if ns != nil {
		err = errors.Join(err, ns.Close())
	}
	return err
}

// podView is what a container that is being made takes from its pod.
type podView struct {
	shared *sharedNamespaces
	pid    int // descriptor of the pod's pid namespace, or -1
}

// joinPod looks up the pod's namespaces. A container that is to share process
// ids needs those of the first container, unless it is the first itself.
func (s *sandbox) joinPod(sharePID bool) (podView, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := podView{shared: s.shared, pid: -1}
	if !sharePID {
		return v, nil
	}
	if s.pidNS == nil {
		// The container itself is on the books already.
		if len(s.containers) > 1 {
			return podView{}, errors.New("share process ids: the pod has containers, but no pid namespace to share")
		}
		return v, nil
	}
	// A descriptor of its own: the pod's may be closed while it is used.
	fd, err := unix.FcntlInt(s.pidNS.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return podView{}, fmt.Errorf("share process ids: %w", err)
	}
	v.pid = fd
	return v, nil
}

// pidPath names the pid namespace for a process that is not this one, or is "".
func (v podView) pidPath() string {
	if v.pid < 0 {
		return ""
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), v.pid)
}

func (v podView) close() {
	if v.pid >= 0 {
		_ = unix.Close(v.pid) // a descriptor of a namespace has nothing to lose
	}
}
