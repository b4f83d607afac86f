// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tdx-guest/pcs"

	"cocoon/attest/tee/tdx"
)

// Places in the report of the quoting enclave.
const (
	qeMiscSelect, qeAttributes = 16, 48
	qeSigner, qeProduct, qeSVN = 128, 256, 258

	tdQE    = 2      // product id of the enclave that signs TDX quotes
	qeDebug = 1 << 1 // attribute: the host can look into the enclave
)

// checkEnclave checks that a report is that of the quoting enclave for TDX of
// the given signer, and that nobody can look into it.
func checkEnclave(report []byte, signer [sha256.Size]byte) error {
	switch {
	case !bytes.Equal(report[qeSigner:][:len(signer)], signer[:]), binary.LittleEndian.Uint16(report[qeProduct:]) != tdQE:
		return errors.New("the enclave that signed is not Intel's quoting enclave for TDX")
	case report[qeAttributes]&qeDebug != 0:
		return errors.New("the quoting enclave can be debugged by the host")
	}
	return nil
}

// checkModule checks that Intel's own TDX module runs, for which both are zero.
func checkModule(q *tdx.Quote) error {
	for _, name := range []string{"mrsigner_seam", "seam_attributes"} {
		if v := q.Field(name); !bytes.Equal(v, make([]byte, len(v))) {
			return fmt.Errorf("the TDX module is not Intel's: %s is %x", name, v)
		}
	}
	return nil
}

// standing is what Intel says of a platform's firmware.
type standing struct {
	status     pcs.TcbComponentStatus
	date       string
	advisories []string
	expired    bool
	number     int // of the evaluation data
}

// severity orders the statuses, the best first.
func severity() []pcs.TcbComponentStatus {
	return []pcs.TcbComponentStatus{
		pcs.TcbComponentStatusUpToDate, pcs.TcbComponentStatusSwHardeningNeeded, pcs.TcbComponentStatusConfigurationNeeded,
		pcs.TcbComponentStatusConfigurationAndSWHardeningNeeded, pcs.TcbComponentStatusOutOfDate,
		pcs.TcbComponentStatusOutOfDateConfigurationNeeded, pcs.TcbComponentStatusRevoked,
	}
}

// worse joins two statuses.
func worse(a, b pcs.TcbComponentStatus) pcs.TcbComponentStatus {
	order := severity()
	if slices.Index(order, b) > slices.Index(order, a) {
		a, b = b, a
	}
	if a == pcs.TcbComponentStatusOutOfDate && strings.HasPrefix(string(b), "Configuration") {
		return pcs.TcbComponentStatusOutOfDateConfigurationNeeded
	}
	return a
}

// judge finds the standing of the platform that made a quote. A revoked one is
// an error; any other is for the policy to decide.
func (o *opened) judge(s *signature, q *tdx.Quote, ext *pcs.PckExtensions) (*standing, error) {
	for _, e := range o.crl.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(s.chain[0].SerialNumber) == 0 {
			return nil, errors.New("the PCK of the platform is revoked")
		}
	}
	if !strings.EqualFold(ext.FMSPC, o.tcb.Fmspc) || !strings.EqualFold(ext.PCEID, o.tcb.PceID) {
		return nil, fmt.Errorf("collateral of platform %.32q, PCE %.32q, want %s, %s", o.tcb.Fmspc, o.tcb.PceID, ext.FMSPC, ext.PCEID)
	}
	svn := q.Field("tcb_svn")
	level, err := platformLevel(o.tcb.TcbLevels, ext.TCB, svn)
	if err != nil {
		return nil, err
	}
	module, err := o.moduleLevel(q, svn)
	if err != nil {
		return nil, err
	}
	enclave, err := o.enclaveLevel(s.report)
	if err != nil {
		return nil, err
	}
	st := &standing{status: worse(worse(level.TcbStatus, module), enclave), date: level.TcbDate, advisories: level.AdvisoryIDs, expired: o.expired, number: o.tcb.TcbEvaluationDataNumber}
	if st.status == pcs.TcbComponentStatusRevoked {
		return nil, errors.New("the firmware of the platform is revoked")
	}
	return st, nil
}

// platformLevel returns the best level that the platform reaches.
func platformLevel(levels []pcs.TcbLevel, tcb pcs.PckCertTCB, svn []byte) (*pcs.TcbLevel, error) {
	for i, l := range levels {
		// The first two components are judged by the module's identity.
		first := 0
		if svn[1] > 0 {
			first = 2
		}
		if tcb.PCESvn >= l.Tcb.Pcesvn && reaches(tcb.CPUSvnComponents, l.Tcb.SgxTcbcomponents, 0) && reaches(svn, l.Tcb.TdxTcbcomponents, first) {
			return &levels[i], nil
		}
	}
	return nil, errors.New("the platform's firmware reaches no level that Intel names")
}

func reaches(have []byte, want []pcs.TcbComponent, first int) bool {
	if len(have) != len(want) {
		return false
	}
	for i := first; i < len(have); i++ {
		if have[i] < want[i].Svn {
			return false
		}
	}
	return true
}

// moduleLevel checks whose TDX module runs, and how current it is.
func (o *opened) moduleLevel(q *tdx.Quote, svn []byte) (pcs.TcbComponentStatus, error) {
	signer, attributes, mask := o.tcb.TdxModule.Mrsigner, o.tcb.TdxModule.Attributes, o.tcb.TdxModule.AttributesMask
	status := pcs.TcbComponentStatusUpToDate
	if svn[1] > 0 {
		id := fmt.Sprintf("TDX_%02x", svn[1])
		i := slices.IndexFunc(o.tcb.TdxModuleIdentities, func(m pcs.TdxModuleIdentity) bool { return strings.EqualFold(m.ID, id) })
		if i < 0 {
			return "", fmt.Errorf("no TDX module %s of this platform is known to Intel", id)
		}
		m := o.tcb.TdxModuleIdentities[i]
		signer, attributes, mask = m.Mrsigner, m.Attributes, m.AttributesMask
		var err error
		if status, err = byISVSVN(m.TcbLevels, uint32(svn[0])); err != nil {
			return "", fmt.Errorf("TDX module: %w", err)
		}
	}
	if !bytes.Equal(signer.Bytes, q.Field("mrsigner_seam")) || !masked(q.Field("seam_attributes"), mask.Bytes, attributes.Bytes) {
		return "", errors.New("the TDX module is not Intel's")
	}
	return status, nil
}

// enclaveLevel checks whose quoting enclave has signed, and how current it is.
func (o *opened) enclaveLevel(report []byte) (pcs.TcbComponentStatus, error) {
	product := binary.LittleEndian.Uint16(report[qeProduct:])
	if !bytes.Equal(o.qe.Mrsigner.Bytes, report[qeSigner:][:32]) || product != o.qe.IsvProdID ||
		!masked(report[qeAttributes:][:16], o.qe.AttributesMask.Bytes, o.qe.Attributes.Bytes) ||
		!masked(reversed(report[qeMiscSelect:][:4]), o.qe.MiscselectMask.Bytes, o.qe.Miscselect.Bytes) {
		return "", errors.New("the quoting enclave is not Intel's")
	}
	status, err := byISVSVN(o.qe.TcbLevels, uint32(binary.LittleEndian.Uint16(report[qeSVN:])))
	if err != nil {
		return "", fmt.Errorf("quoting enclave: %w", err)
	}
	return status, nil
}

func byISVSVN(levels []pcs.TcbLevel, svn uint32) (pcs.TcbComponentStatus, error) {
	for _, l := range levels {
		if svn >= l.Tcb.Isvsvn {
			return l.TcbStatus, nil
		}
	}
	return "", fmt.Errorf("version %d reaches no level that Intel names", svn)
}

// masked tells whether value has the wanted bits where mask has ones.
func masked(value, mask, want []byte) bool {
	if len(value) != len(mask) || len(value) != len(want) {
		return false
	}
	for i := range value {
		if value[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}

func reversed(b []byte) []byte {
	b = bytes.Clone(b)
	slices.Reverse(b)
	return b
}

// claims are those that Trustee names.
func (s *standing) claims() map[string]any {
	expired := "0"
	if s.expired {
		expired = "1"
	}
	advisories := []any{}
	for _, a := range s.advisories {
		advisories = append(advisories, a)
	}
	date := s.date
	if t, err := time.Parse(time.RFC3339, date); err == nil {
		date = t.UTC().Format(time.RFC3339)
	}
	return map[string]any{
		"tcb_status": string(s.status), "tcb_date": date, "advisory_ids": advisories,
		"collateral_expiration_status": expired, "tcb_eval_num": s.number,
	}
}
