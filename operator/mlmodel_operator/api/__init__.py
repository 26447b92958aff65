"""The MLModel resource: its types, parsing, conditions and the CRD generated from them."""
