_base_ = './sam3_text_lora.py'
model = dict(base='{{ fileDirname }}/../../sam3_tiny')
