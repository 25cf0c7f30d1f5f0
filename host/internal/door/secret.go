package door

import (
	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/secret"
)

// Flags of lists of secrets, virConnectListAllSecretsFlags.
const (
	secretEphemeral   = uint32(libvirt.ConnectListSecretsEphemeral)
	secretNoEphemeral = uint32(libvirt.ConnectListSecretsNoEphemeral)
	secretPrivate     = uint32(libvirt.ConnectListSecretsPrivate)
	secretNoPrivate   = uint32(libvirt.ConnectListSecretsNoPrivate)
)

// secretLists are the lists of secrets, whose names are their UUIDs.
var secretLists = family[secret.Secret, libvirt.Secret]{
	plural: "secrets", function: "virConnectListAllSecrets",
	known: secretEphemeral | secretNoEphemeral | secretPrivate | secretNoPrivate,
	all:   func(s *session) []secret.Secret { return s.connection().Secrets.All() },
	passes: func(one *secret.Secret, flags uint32) bool {
		return picks(flags, one.Ephemeral, secretEphemeral, secretNoEphemeral) &&
			picks(flags, one.Private, secretPrivate, secretNoPrivate)
	},
	name:      func(one *secret.Secret) string { return one.UUID.String() },
	reference: func(one *secret.Secret) libvirt.Secret { return secretReference(*one) },
}

func secretReference(s secret.Secret) libvirt.Secret {
	return libvirt.Secret{UUID: libvirt.UUID(s.UUID), UsageType: int32(s.UsageType), UsageID: s.Usage}
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
