"""A fuzzer of the files of ONNX, LightGBM and XGBoost: small models, changed at random, opened as a server does.

Each changed file goes to two processes with other values of ``MALLOC_PERTURB_``. It must be refused, or give the same
answer in both, which must be that of the library on the same file.
"""
