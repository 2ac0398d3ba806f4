"""Networks: functions of tensors and a CameraRig."""
