"""Data sets of other layouts into ours, ours into another shape, and ours into parquet.

read_parquet, read_dataset, read_webdataset    files -> blocks of documents
blocks                                         what a block is; rows that cannot be used are left out and listed
document_annotations                           where turns, targets and a pair's source are
write_dataset, write_parquet                   blocks -> files
convert                                        puts them together
"""
