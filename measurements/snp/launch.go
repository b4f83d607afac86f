// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package snp predicts the launch digest of an AMD SEV-SNP guest from what it
// is launched with, as the secure processor computes it (SEV-SNP Firmware ABI,
// PAGE_INFO) for the VMMs that sev-snp-measure knows. It does the same for the
// older SEV and SEV-ES.
//
// Trust: the configuration is the caller's; firmware and SVSM come from
// strangers. What a VMM would refuse to launch, or launch without checking the
// kernel, has no digest here.
package snp

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"cocoon/measurements/ovmf"
)

// Errors that callers branch on.
var (
	// ErrNoHashes is returned where a kernel is given and the firmware has no
	// place for its hash: it would boot any other as well.
	ErrNoHashes = errors.New("the firmware does not check the kernel")
	// ErrConfig is wrapped by errors about a Config.
	ErrConfig = errors.New("wrong launch configuration")
)

// VMM is what launches the guest.
type VMM string

// The VMMs. They differ in the state of processors and in the order of pages.
const (
	QEMU VMM = "QEMU"
	EC2  VMM = "ec2"
	GCE  VMM = "gce"
)

const (
	pageSize = 4096
	maxVCPUs = 4096
	// vmsaGPA is the address that a processor's state is measured at.
	vmsaGPA = 0xFFFFFFFFF000
	bspEIP  = 0xfffffff0
)

// Digest is a launch digest.
type Digest [sha512.Size384]byte

// Kernel is what the VMM loads beside the firmware.
type Kernel struct {
	Kernel, Initrd [sha256.Size]byte // digests of the files
	Cmdline        string
}

// Config is what a guest is launched with.
type Config struct {
	Firmware *ovmf.Image
	// FirmwareDigest is the digest after the firmware's own pages. With it,
	// Firmware may be the image's last page alone.
	FirmwareDigest *Digest
	// Kernel is nil for a guest that boots from a disk.
	Kernel *Kernel
	// Signature is the processor's, family, model and stepping as in CPUID.
	Signature uint32
	// Features are the SEV features of the processors: 1, or 0x21 with
	// DebugSwap.
	Features uint64
	VMM      VMM
	// SVSM is a service module below the firmware, and VarsSize the size of the
	// variable store between them. It may be nil. Only QEMU loads one, and
	// Firmware has to be whole.
	SVSM     *ovmf.Image
	VarsSize uint64
}

// PageType is a page's in PAGE_INFO. The content counts for Normal and VMSA
// pages only.
type PageType byte

// The page types.
const (
	Normal     PageType = 1
	VMSA       PageType = 2
	Zero       PageType = 3
	Unmeasured PageType = 4
	Secrets    PageType = 5
	CPUID      PageType = 6
)

// String is the name that the Firmware ABI has for the type.
func (t PageType) String() string {
	switch t {
	case Normal:
		return "NORMAL"
	case VMSA:
		return "VMSA"
	case Zero:
		return "ZERO"
	case Unmeasured:
		return "UNMEASURED"
	case Secrets:
		return "SECRETS"
	case CPUID:
		return "CPUID"
	}
	return fmt.Sprintf("PageType(%d)", byte(t))
}

// Step is one thing that went into a digest.
type Step struct {
	What string
	Type PageType
	GPA  uint64
	// Pages is how many there are of 4 KiB.
	Pages int
	// Digest is the one after this step.
	Digest Digest
}

// chain is a digest that grows.
type chain struct {
	digest Digest
	steps  []Step
}

var noContent [sha512.Size384]byte

// page adds one page.
func (c *chain) page(kind PageType, gpa uint64, content [sha512.Size384]byte) {
	var info [0x70]byte
	copy(info[:], c.digest[:])
	copy(info[0x30:], content[:])
	binary.LittleEndian.PutUint16(info[0x60:], uint16(len(info)))
	info[0x62] = byte(kind)
	binary.LittleEndian.PutUint64(info[0x68:], gpa)
	c.digest = sha512.Sum384(info[:])
}

// note remembers what was added last.
func (c *chain) note(what string, kind PageType, gpa uint64, pages int) {
	c.steps = append(c.steps, Step{What: what, Type: kind, GPA: gpa, Pages: pages, Digest: c.digest})
}

// data adds whole pages of content.
func (c *chain) data(what string, gpa uint64, b []byte) error {
	if len(b)%pageSize != 0 {
		return fmt.Errorf("%s of %d bytes is not of whole pages: %w", what, len(b), ErrConfig)
	}
	for at := 0; at < len(b); at += pageSize {
		c.page(Normal, gpa+uint64(at), sha512.Sum384(b[at:at+pageSize]))
	}
	c.note(what, Normal, gpa, len(b)/pageSize)
	return nil
}

// empty adds the pages of a section whose content is not measured.
func (c *chain) empty(what string, kind PageType, s ovmf.Section) {
	for at := uint32(0); at < s.Size; at += pageSize {
		c.page(kind, uint64(s.GPA+at), noContent)
	}
	c.note(what, kind, uint64(s.GPA), int(s.Size/pageSize))
}

// Launch returns the digests for 1 to n processors and how the last one came
// about. Each further processor is one step on the way of the one before.
func Launch(cfg Config, n int) ([]Digest, []Step, error) {
	if n < 1 || n > maxVCPUs {
		return nil, nil, fmt.Errorf("%d processors, want 1 to %d: %w", n, maxVCPUs, ErrConfig)
	}
	c, err := cfg.beforeProcessors()
	if err != nil {
		return nil, nil, err
	}
	first, further, err := cfg.states()
	if err != nil {
		return nil, nil, err
	}
	digests := make([]Digest, n)
	content := sha512.Sum384(first[:])
	for i := range digests {
		c.page(VMSA, vmsaGPA, content)
		c.note(fmt.Sprintf("state of processor %d", i), VMSA, vmsaGPA, 1)
		digests[i] = c.digest
		if i == 0 {
			content = sha512.Sum384(further[:])
		}
	}
	return digests, c.steps, nil
}

// FirmwareDigest is the digest after a firmware's own pages.
func FirmwareDigest(firmware *ovmf.Image) (Digest, error) {
	var c chain
	err := c.data("firmware", firmware.GPA(), firmware.Data)
	return c.digest, err
}

// beforeProcessors measures all but the processors' states.
func (cfg Config) beforeProcessors() (*chain, error) {
	c := &chain{}
	if cfg.Firmware == nil {
		return nil, fmt.Errorf("no firmware: %w", ErrConfig)
	}
	if cfg.FirmwareDigest != nil {
		c.digest = *cfg.FirmwareDigest
		c.note("firmware, by its digest", Normal, cfg.Firmware.GPA(), 0)
	} else if err := c.data("firmware", cfg.Firmware.GPA(), cfg.Firmware.Data); err != nil {
		return nil, err
	}
	if cfg.SVSM != nil {
		return c, cfg.svsm(c)
	}
	return c, cfg.sections(c, cfg.Firmware)
}

// svsm measures the service module, whose own metadata counts instead of the
// firmware's.
func (cfg Config) svsm(c *chain) error {
	switch {
	case cfg.Kernel != nil:
		return fmt.Errorf("a kernel is not measured below a service module: %w", ErrConfig)
	case cfg.VMM != QEMU:
		return fmt.Errorf("VMM %.20q with a service module, want %s: %w", cfg.VMM, QEMU, ErrConfig)
	case cfg.FirmwareDigest != nil:
		return fmt.Errorf("a firmware's digest does not say where a service module lies: %w", ErrConfig)
	case cfg.VarsSize%pageSize != 0 || cfg.VarsSize > cfg.Firmware.GPA()-uint64(len(cfg.SVSM.Data)):
		return fmt.Errorf("variable store of %d bytes between firmware and service module: %w", cfg.VarsSize, ErrConfig)
	}
	if err := c.data("SVSM", cfg.svsmGPA(), cfg.SVSM.Data); err != nil {
		return err
	}
	return cfg.sections(c, cfg.SVSM)
}

func (cfg Config) svsmGPA() uint64 {
	return cfg.Firmware.GPA() - cfg.VarsSize - uint64(len(cfg.SVSM.Data))
}

// sections measures what the metadata of an image names, in its order.
func (cfg Config) sections(c *chain, of *ovmf.Image) error {
	list, err := of.Sections()
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("it has no metadata for SEV: %w", ovmf.ErrFirmware)
	}
	hashed := false
	var last []ovmf.Section // EC2 adds the pages of CPUID behind all others
	for _, s := range list {
		if s.Type == ovmf.CPUID && cfg.VMM == EC2 {
			last = append(last, s)
			continue
		}
		if err := cfg.section(c, s); err != nil {
			return err
		}
		hashed = hashed || s.Type == ovmf.KernelHashes
	}
	for _, s := range last {
		if err := cfg.section(c, s); err != nil {
			return err
		}
	}
	if cfg.Kernel != nil && !hashed {
		return ErrNoHashes
	}
	return nil
}

func (cfg Config) section(c *chain, s ovmf.Section) error {
	if (s.Type == ovmf.Secrets || s.Type == ovmf.CPUID) && s.Size != pageSize {
		// QEMU and sev-snp-measure disagree on what is measured then.
		return fmt.Errorf("section of type %#x at %#x, %d bytes, is not one page: %w", s.Type, s.GPA, s.Size, ovmf.ErrFirmware)
	}
	switch s.Type {
	case ovmf.SecMem:
		if cfg.VMM == GCE {
			c.empty("memory of the firmware, not measured", Unmeasured, s)
		} else {
			c.empty("memory of the firmware, zeros", Zero, s)
		}
	case ovmf.Secrets:
		c.empty("page of secrets", Secrets, s)
	case ovmf.CPUID:
		c.empty("page of CPUID", CPUID, s)
	case ovmf.SVSMCAA:
		c.empty("calling area of an SVSM", Zero, s)
	case ovmf.KernelHashes:
		if cfg.Kernel == nil {
			c.empty("hashes, none", Zero, s)
			return nil
		}
		page, err := cfg.hashesPage(s)
		if err != nil {
			return err
		}
		return c.data("hashes of kernel, initrd and command line", uint64(s.GPA), page)
	default:
		return fmt.Errorf("metadata for SEV of type %#x: %w", s.Type, ovmf.ErrFirmware)
	}
	return nil
}
