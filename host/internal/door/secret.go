package door

import (
	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/secret"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxSecrets is how many secrets one list has at most.
const maxSecrets = 16384

// secretListKnown are the bits of virConnectListAllSecretsFlags.
const secretListKnown = libvirt.ConnectListSecretsEphemeral | libvirt.ConnectListSecretsNoEphemeral |
	libvirt.ConnectListSecretsPrivate | libvirt.ConnectListSecretsNoPrivate

func secretReference(s secret.Secret) libvirt.Secret {
	return libvirt.Secret{UUID: libvirt.UUID(s.UUID), UsageType: int32(s.UsageType), UsageID: s.Usage}
}

// secretsThat returns the secrets that pass the flags of a list.
func secretsThat(s *session, flags libvirt.ConnectListAllSecretsFlags) []secret.Secret {
	all := s.connection().Secrets.All()
	out := all[:0]
	for _, one := range all {
		is := func(yes bool, if_, else_ libvirt.ConnectListAllSecretsFlags) bool {
			return flags&(if_|else_) == 0 || yes && flags&if_ != 0 || !yes && flags&else_ != 0
		}
		if is(one.Ephemeral, libvirt.ConnectListSecretsEphemeral, libvirt.ConnectListSecretsNoEphemeral) &&
			is(one.Private, libvirt.ConnectListSecretsPrivate, libvirt.ConnectListSecretsNoPrivate) {
			out = append(out, one)
		}
	}
	return out
}

func connectNumOfSecrets(s *session, _ *void) (*libvirt.ConnectNumOfSecretsRet, error) {
	return &libvirt.ConnectNumOfSecretsRet{Num: int32(len(secretsThat(s, 0)))}, nil
}

func connectListSecrets(s *session, args *libvirt.ConnectListSecretsArgs) (*libvirt.ConnectListSecretsRet, error) {
	if err := room(args.Maxuuids, "secrets"); err != nil {
		return nil, err
	}
	ret := &libvirt.ConnectListSecretsRet{}
	for _, one := range firstOf(secretsThat(s, 0), args.Maxuuids) {
		ret.Uuids = append(ret.Uuids, one.UUID.String())
	}
	return ret, nil
}

func connectListAllSecrets(s *session, args *libvirt.ConnectListAllSecretsArgs) (*libvirt.ConnectListAllSecretsRet, error) {
	if err := checkFlags(uint32(args.Flags), uint32(secretListKnown), "virConnectListAllSecrets"); err != nil {
		return nil, err
	}
	all := secretsThat(s, args.Flags)
	if len(all) > maxSecrets {
		return nil, verr.New(verr.RPC, "too many secrets %d for limit %d", len(all), maxSecrets)
	}
	ret := &libvirt.ConnectListAllSecretsRet{Ret: uint32(len(all))}
	if args.NeedResults != 0 {
		for _, one := range all {
			ret.Secrets = append(ret.Secrets, secretReference(one))
		}
	}
	return ret, nil
}

func secretLookupByUUID(s *session, args *libvirt.SecretLookupByUUIDArgs) (*libvirt.SecretLookupByUUIDRet, error) {
	one, err := s.connection().Secrets.ByUUID(uuid.UUID(args.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.SecretLookupByUUIDRet{OptSecret: secretReference(one)}, nil
}

func secretLookupByUsage(s *session, args *libvirt.SecretLookupByUsageArgs) (*libvirt.SecretLookupByUsageRet, error) {
	one, err := s.connection().Secrets.ByUsage(secret.UsageType(args.UsageType), args.UsageID)
	if err != nil {
		return nil, err
	}
	return &libvirt.SecretLookupByUsageRet{OptSecret: secretReference(one)}, nil
}

func secretGetXMLDesc(s *session, args *libvirt.SecretGetXMLDescArgs) (*libvirt.SecretGetXMLDescRet, error) {
	if err := checkFlags(args.Flags, 0, "virSecretGetXMLDesc"); err != nil {
		return nil, err
	}
	one, err := s.connection().Secrets.ByUUID(uuid.UUID(args.OptSecret.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.SecretGetXMLDescRet{XML: one.XML()}, nil
}

func secretDefineXML(s *session, args *libvirt.SecretDefineXMLArgs) (*libvirt.SecretDefineXMLRet, error) {
	const validate = 1
	if err := checkFlags(args.Flags, validate, "virSecretDefineXML"); err != nil {
		return nil, err
	}
	one, err := s.connection().Secrets.Define(args.XML)
	if err != nil {
		return nil, err
	}
	return &libvirt.SecretDefineXMLRet{OptSecret: secretReference(one)}, nil
}

func secretSetValue(s *session, args *libvirt.SecretSetValueArgs) (*void, error) {
	if err := checkFlags(args.Flags, 0, "virSecretSetValue"); err != nil {
		return nil, err
	}
	return nil, s.connection().Secrets.SetValue(uuid.UUID(args.OptSecret.UUID), args.Value)
}

func secretGetValue(s *session, args *libvirt.SecretGetValueArgs) (*libvirt.SecretGetValueRet, error) {
	if err := checkFlags(args.Flags, 0, "virSecretGetValue"); err != nil {
		return nil, err
	}
	value, err := s.connection().Secrets.Value(uuid.UUID(args.OptSecret.UUID))
	return &libvirt.SecretGetValueRet{Value: value}, err
}

func secretUndefine(s *session, args *libvirt.SecretUndefineArgs) (*void, error) {
	return nil, s.connection().Secrets.Undefine(uuid.UUID(args.OptSecret.UUID))
}
